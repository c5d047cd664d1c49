#parameters left_row
// One K step of DEPTH over a pair of tiles; rows of the left one have `left_row` vectors. With
// PREFETCH, where there are enough registers, unrolled by UNROLL, so that loads overlap with FMAs.
// Without it, the depth is a value, so that drivers do not unroll the loop and load everything at
// its start.
#if PREFETCH
    for (var k = 0u; k < DEPTH; k += UNROLL) {
#else
    for (var k = 0u; k < p.step_depth; k += UNROLL) {
#endif
        let left_k = left_at + k * {left_row} + down;
        let right_k = right_at + k * RIGHT_ROW + across;
#repeat u UNROLL
        {
#repeat h VECTORS_M
            let a{h} = left_tile[left_k + {u}u * {left_row} + {h}u * DOWN];
#end
#repeat j VECTORS_N
            let b{j} = right_tile[right_k + {u}u * RIGHT_ROW + {j}u * ACROSS];
#end
#repeat h VECTORS_M
#repeat r 4
#repeat j VECTORS_N
            sum{h}_{r}_{j} += a{h}[{r}u] * b{j};
#end
#end
#end
        }
#end
    }
