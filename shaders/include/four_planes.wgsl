#parameters name array at plane inside
// The values of four planes at the same position, or zeros.
    let {name} = select(vec4<f32>(), vec4(
#repeat e 4
        f32({array}[{at} + {plane}{e}]),
#end
    ), {inside});
