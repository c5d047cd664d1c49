#parameters at
// Stores the four pixels of four channels that an invocation loaded, transposed.
#repeat e 4
                left_tile[{at} + (block_k + {e}u) * LEFT_ROW + block_v] =
                    vec4<f32>(block0[{e}u], block1[{e}u], block2[{e}u], block3[{e}u]);
#end
