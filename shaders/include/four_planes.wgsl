#parameters name array at plane inside
// A value of each of four planes at the same place, or zeros.
    let {name} = select(vec4<f32>(), vec4(
#repeat e 4
        f32({array}[{at} + {plane}{e}]),
#end
    ), {inside});
