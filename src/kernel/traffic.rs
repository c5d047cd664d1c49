//! FLOP and memory traffic of a kernel, derived from its tiling, for a static profile without a
//! device.

use serde::Serialize;

/// FLOP and traffic of a dispatch.
///
/// Storage traffic is before caches: an element loaded by ten workgroups counts ten times, one
/// shared by the invocations of a workgroup counts once. The overhang of a tile over an edge and
/// taps in the padding count as arithmetic like the rest, but the overhang moves nothing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Traffic {
    /// FLOP of the algorithm, two per multiply-add.
    pub flops: u64,
    /// Bytes loaded from storage.
    pub loaded: u64,
    /// Bytes stored to storage.
    pub stored: u64,
    /// Bytes loaded from storage for a fused operation, such as the activation of a fused ReLU
    /// mask: moved, but not part of the kernel's own intensity.
    pub fused: u64,
    /// Bytes moved with the largest tiles, 128 x 128 results clipped to the product's size: the
    /// bound of the algorithm if the product is narrow. 0 if it is not a product.
    pub attainable: u64,
    /// Bytes stored to and loaded from workgroup memory.
    pub shared: u64,
    /// Register tile of an invocation, rows x columns.
    pub register: [u32; 2],
    /// Parts of split-K; 1 without.
    pub parts: u32,
}

impl Traffic {
    /// Total storage traffic in bytes.
    pub fn storage(&self) -> u64 {
        self.loaded + self.stored + self.fused
    }
}

/// A tiled (implicit) GEMM: m x k times k x n, one tile per workgroup.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct TiledProduct {
    /// m, n and k.
    pub extents: [usize; 3],
    /// Tile of a workgroup, rows x columns.
    pub tile: [usize; 2],
    /// Register tile of an invocation, rows x columns.
    pub register: [usize; 2],
    /// Parts of split-K.
    pub parts: usize,
    /// Bytes per element of the left operand, the right operand and the result.
    pub element: [usize; 3],
    /// Whether tiles are staged in workgroup memory as f32; otherwise every invocation loads its
    /// operands from storage.
    pub shared: bool,
}

/// Rows and columns of the largest double-buffered tile in 16 KiB of workgroup memory.
const LARGEST: u64 = 128;

impl TiledProduct {
    /// FLOP and traffic of the dispatch.
    pub fn traffic(&self) -> Traffic {
        let [m, n, k] = self.extents.map(|e| e as u64);
        let [tile_m, tile_n] = self.tile.map(|e| e.max(1) as u64);
        let [register_m, register_n] = self.register.map(|e| e.max(1) as u64);
        let [left, right, result] = self.element.map(|e| e as u64);
        let (rows, columns) = (m.div_ceil(tile_m), n.div_ceil(tile_n));
        // Each column of tiles loads the whole left operand, each row of tiles the whole right
        // operand.
        let (left_elements, right_elements) = (k * m * columns, k * n * rows);
        let largest = left * k * m * n.div_ceil(LARGEST) + right * k * n * m.div_ceil(LARGEST);
        let parts = self.parts.max(1) as u64;
        // Whole tiles, including the overhang, are stored to workgroup memory once and loaded by
        // each invocation.
        let tiled = rows * columns * k;
        let shared = tiled * (tile_m + tile_n)
            + tiled * tile_m * tile_n * (register_m + register_n) / (register_m * register_n);
        let count = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
        Traffic {
            flops: 2 * m * n * k,
            loaded: left * left_elements + right * right_elements,
            stored: result * m * n * parts,
            fused: 0,
            attainable: largest + result * m * n * parts,
            shared: if self.shared { 4 * shared } else { 0 },
            register: self.register.map(count),
            parts: count(self.parts),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tiled_product_traffic_is_correct() {
        let product = TiledProduct {
            extents: [96, 64, 10],
            tile: [64, 32],
            register: [4, 2],
            parts: 3,
            element: [4, 2, 4],
            shared: true,
        };
        let traffic = product.traffic();
        assert_eq!(traffic.flops, 2 * 96 * 64 * 10);
        // Two columns of tiles load the left operand, two rows of tiles the right operand.
        assert_eq!(traffic.loaded, 4 * 96 * 10 * 2 + 2 * 64 * 10 * 2);
        assert_eq!(traffic.stored, 4 * 96 * 64 * 3);
        // Four tiles: per step of k, 96 elements are stored and 256 invocations load 6.
        assert_eq!(traffic.shared, 4 * 4 * 10 * (96 + 256 * 6));
        let apart = TiledProduct { shared: false, ..product }.traffic();
        assert_eq!(Traffic { shared: traffic.shared, ..apart }, traffic);
    }
}
