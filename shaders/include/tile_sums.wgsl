// The sums of an invocation, vectors of four columns, for tile_step.wgsl.
#repeat h VECTORS_M
#repeat r 4
#repeat j VECTORS_N
    var sum{h}_{r}_{j} = vec4<f32>(0.0);
#end
#end
#end
