#parameters down across
// The channels of an input gradient, and the sub-pixel phase of a row of the rotated weight.
#if SUBPIXEL
    let channels = p.rows / ({down} * {across});
    let phase = row / channels;
#else
    let channels = p.rows;
    let phase = 0u;
#endif
    // Taps outside the sub-pixel phase are negative and become large unsigned numbers.
