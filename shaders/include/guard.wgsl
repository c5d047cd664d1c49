#if GUARDED
    // The gradients overflowed: this update is left out.
    if guard[0] == 0.0 { return; }
#endif
