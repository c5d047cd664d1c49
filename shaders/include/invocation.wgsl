// The parameters of an entry point with linear indices, for `linear_index` or `linear_group`.
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) local: u32,
