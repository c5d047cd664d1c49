#parameters sum place inner
// Stores a gradient at `place` of dx, after what is there was added and the ReLU's mask applied,
// which lies `inner` into item n.
#if ACCUMULATE
    {sum} += f32(dx_data[{place}]);
#endif
#if MASK
    {sum} = select(0.0, {sum}, f32(mask[p.mask_offset + n * p.mask_stride + {inner}]) > 0.0);
#endif
    dx_data[{place}] = dx_data_element({sum});
