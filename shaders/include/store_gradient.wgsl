#parameters sum place inner
// Stores a gradient at `place` of dx, after accumulation and the fused ReLU mask, which is at
// offset `inner` in item n.
#if ACCUMULATE
    {sum} += f32(dx_data[{place}]);
#endif
#if MASK
    {sum} = select(0.0, {sum}, f32(mask[p.mask_offset + n * p.mask_stride + {inner}]) > 0.0);
#endif
    dx_data[{place}] = dx_data_element({sum});
