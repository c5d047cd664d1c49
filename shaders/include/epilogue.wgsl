#parameters value row zero
// The epilogue of a result of this row: bias, batch norm in evaluation, ReLU.
#if BIAS
    {value} += bias[{row}];
#endif
#if NORM
    {value} = ({value} - mean[{row}]) * (inverseSqrt(variance[{row}] + p.epsilon) * scale[{row}]) + shift[{row}];
#endif
#if RELU
    {value} = select({value}, {zero}, {value} <= {zero});
#endif
