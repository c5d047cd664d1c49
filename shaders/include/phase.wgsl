// The channels of an input gradient, and the phase that a row of the weight turned round is for.
#if DEAL
    let channels = p.rows / (PHASES_H * PHASES_W);
    let phase = row / channels;
#else
    let channels = p.rows;
    let phase = 0u;
#endif
    // Taps that do not meet the phase come out negative, and so as large unsigned numbers.
