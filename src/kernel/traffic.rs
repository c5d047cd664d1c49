//! What a kernel computes and moves, counted from its scheme of tiles and not from a run: which a
//! profile without a device is made of.

use serde::Serialize;

/// The counts of one dispatch.
///
/// Storage traffic is what the workgroups ask for, whatever caches make of it: an element that ten
/// workgroups load counts ten times; one that the invocations of one workgroup share counts once.
/// Elements outside of the results (the part of a tile that hangs over an edge) and taps in the
/// padding are not told apart from the rest, except that a tile's overhang moves nothing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub struct Traffic {
    /// Floating-point operations of the algorithm, two for a multiply-add.
    pub flops: u64,
    /// Bytes of storage that are loaded.
    pub loaded: u64,
    /// Bytes of storage that are stored.
    pub stored: u64,
    /// Bytes of storage that are loaded for another operation that is taken along, as the
    /// activation whose mask a gradient applies: moved, but no part of the intensity of what the
    /// kernel is for.
    pub joined: u64,
    /// Bytes of storage that the largest tiles would move, 128 by 128 results cut to the product's
    /// rows and columns: the algorithm's own bound where a product has few of either. 0 for what is
    /// no product.
    pub attainable: u64,
    /// Bytes of workgroup memory that are stored and loaded.
    pub shared: u64,
    /// Results that an invocation holds in registers, rows by columns.
    pub register: [u32; 2],
    /// Parts that a sum is cut into, so that more workgroups can work on it.
    pub parts: u32,
}

impl Traffic {
    /// Bytes of storage that are moved in all.
    pub fn storage(&self) -> u64 {
        self.loaded + self.stored + self.joined
    }
}

/// A product of an m x k and a k x n operand that is cut into tiles, one a workgroup: what GEMM,
/// implicit or not, does.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct TiledProduct {
    /// m, n and k: rows and columns of the result, terms of each sum.
    pub extents: [usize; 3],
    /// Rows and columns of the results of one workgroup.
    pub tile: [usize; 2],
    /// Rows and columns of the results of one invocation.
    pub register: [usize; 2],
    /// Parts that the sum over k is cut into.
    pub parts: usize,
    /// Bytes of an element of the left operand, the right one and the result.
    pub element: [usize; 3],
    /// Whether tiles go through workgroup memory, as f32; else every invocation loads from storage
    /// what it multiplies.
    pub shared: bool,
}

/// Rows and columns of the largest tile that workgroup memory of 16 KiB has room for twice.
const LARGEST: u64 = 128;

impl TiledProduct {
    /// The counts of the dispatch.
    pub fn traffic(&self) -> Traffic {
        let [m, n, k] = self.extents.map(|e| e as u64);
        let [tile_m, tile_n] = self.tile.map(|e| e.max(1) as u64);
        let [register_m, register_n] = self.register.map(|e| e.max(1) as u64);
        let [left, right, result] = self.element.map(|e| e as u64);
        let (rows, columns) = (m.div_ceil(tile_m), n.div_ceil(tile_n));
        // Each column of tiles loads the whole left operand, each row of tiles the whole right one.
        let (left_elements, right_elements) = (k * m * columns, k * n * rows);
        let largest = left * k * m * n.div_ceil(LARGEST) + right * k * n * m.div_ceil(LARGEST);
        let parts = self.parts.max(1) as u64;
        // Whole tiles go through workgroup memory, overhang and all: stored once, then loaded by
        // each invocation.
        let tiled = rows * columns * k;
        let shared = tiled * (tile_m + tile_n)
            + tiled * tile_m * tile_n * (register_m + register_n) / (register_m * register_n);
        let count = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
        Traffic {
            flops: 2 * m * n * k,
            loaded: left * left_elements + right * right_elements,
            stored: result * m * n * parts,
            joined: 0,
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
    fn a_tiled_product_is_counted_by_hand() {
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
        // Two columns of tiles load the left operand, two rows of tiles the right one.
        assert_eq!(traffic.loaded, 4 * 96 * 10 * 2 + 2 * 64 * 10 * 2);
        assert_eq!(traffic.stored, 4 * 96 * 64 * 3);
        // Four tiles: each step of k stores 96 elements and 256 invocations load 6.
        assert_eq!(traffic.shared, 4 * 4 * 10 * (96 + 256 * 6));
        let apart = TiledProduct { shared: false, ..product }.traffic();
        assert_eq!(Traffic { shared: traffic.shared, ..apart }, traffic);
    }
}
