// EACH_M x EACH_N sums in registers, for register_step.wgsl.
#repeat i EACH_M
#repeat j EACH_N
    var sum{i}_{j} = 0.0;
#end
#end
