#parameters left_row
// Multiplies the DEPTH terms of a pair of tiles; rows of the left one are `left_row` vectors long.
// Drivers leave a loop of this size as it is, and then each term waits for what it reads; of four,
// three do not.
    for (var k = 0u; k < DEPTH; k += 4u) {
        let left_k = left_at + k * {left_row} + down;
        let right_k = right_at + k * RIGHT_ROW + across;
#repeat u 4
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
