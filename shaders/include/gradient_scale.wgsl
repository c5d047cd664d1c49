// What the gradients are multiplied by: the loss scale.
#if GUARDED
    let scale = guard[1];
#else
    let scale = step.loss_scale;
#endif
