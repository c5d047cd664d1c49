// The loss scale of the gradients.
#if GUARDED
    let scale = guard[1];
#else
    let scale = step.loss_scale;
#endif
