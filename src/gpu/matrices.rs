//! Choice of an adapter's cooperative matrices.

use crate::kernel::Cooperative;

/// The matrix size to use: square, with f32 accumulation, preferring f16 operands.
pub(super) fn pick(list: &[wgpu::CooperativeMatrixProperties], subgroup: u32) -> Option<Cooperative> {
    let has = |size: u32, element: wgpu::CooperativeScalarType| {
        list.iter().any(|p| {
            [p.m_size, p.n_size, p.k_size] == [size; 3]
                && p.ab_type == element
                && p.cr_type == wgpu::CooperativeScalarType::F32
        })
    };
    let of = |size: u32| {
        let (f16, f32) =
            (has(size, wgpu::CooperativeScalarType::F16), has(size, wgpu::CooperativeScalarType::F32));
        (f16 || f32).then_some(Cooperative {
            size: size as usize,
            subgroup: subgroup as usize,
            f16,
            f32,
            emulated: false,
        })
    };
    let found: Vec<Cooperative> = [16, 8].into_iter().filter_map(of).collect();
    found.iter().find(|c| c.f16).or(found.first()).copied()
}

#[cfg(test)]
mod tests {
    use super::*;
    use wgpu::CooperativeScalarType::{F16, F32};

    fn properties(
        m: u32,
        k: u32,
        ab: wgpu::CooperativeScalarType,
        cr: wgpu::CooperativeScalarType,
    ) -> wgpu::CooperativeMatrixProperties {
        wgpu::CooperativeMatrixProperties {
            m_size: m,
            n_size: m,
            k_size: k,
            ab_type: ab,
            cr_type: cr,
            saturating_accumulation: false,
        }
    }

    #[test]
    fn cooperative_matrices_are_square_with_f32_accumulation() {
        assert_eq!(pick(&[], 32), None);
        assert_eq!(pick(&[properties(16, 16, F16, F16), properties(16, 8, F16, F32)], 32), None);
        let metal = [properties(8, 8, F32, F32), properties(8, 8, F16, F16), properties(8, 8, F16, F32)];
        let expected = Cooperative { size: 8, subgroup: 32, f16: true, f32: true, emulated: false };
        assert_eq!(pick(&metal, 32), Some(expected));
        let vulkan = [properties(8, 8, F32, F32), properties(16, 16, F16, F32)];
        let expected = Cooperative { size: 16, subgroup: 64, f16: true, f32: false, emulated: false };
        assert_eq!(pick(&vulkan, 64), Some(expected));
    }
}
