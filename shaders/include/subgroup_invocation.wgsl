// The parameters of an entry point on cooperative matrices.
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(local_invocation_index) local: u32,
#if !EMULATED
    @builtin(subgroup_id) subgroup: u32,
#endif
