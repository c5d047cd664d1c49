#if GUARDED
    // The gradients overflowed: skip this update.
    if guard[0] == 0.0 { return; }
#endif
