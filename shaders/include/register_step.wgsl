#parameters left right
// One K step of EACH_M x EACH_N sums: `left` of each row {i} times `right` of each column {j}.
#repeat j EACH_N
    let b{j} = {right};
#end
#repeat i EACH_M
    let a{i} = {left};
#repeat j EACH_N
    sum{i}_{j} += a{i} * b{j};
#end
#end
