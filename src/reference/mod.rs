//! The CPU reference of every operation, forward and backward: plain loops over f32 or f64, against
//! which kernels are tested, easy to step through in a debugger.

mod accumulate;
mod adamw;
mod add;
mod average;
mod avg_pool;
mod batch_norm;
mod clip_norm;
mod concat;
mod conv;
mod copy;
mod dropout;
mod fill;
mod interpreter;
mod lars;
mod linear;
mod loss_scale;
mod lrn;
mod max_pool;
mod relu;
mod sgd;
mod softmax_cross_entropy;
mod weighted_sum;

pub use interpreter::Interpreter;

use std::any::{Any, TypeId};
use std::collections::BTreeMap;
use std::fmt::Debug;
use std::sync::{PoisonError, RwLock};

use crate::graph::Operation;
use crate::graph::{Add, Copy, Fill};
use crate::kernel::Step;
use crate::ops::{
    Accumulate, AdamW, AdaptiveAvgPool, Average, AvgPool, AvgPoolGrad, BatchNorm, BatchNormGrad, ClipNorm,
    Concat, Conv, ConvBiasGrad, ConvInputGrad, ConvWeightGrad, Dropout, Lars, Linear, LinearBiasGrad,
    LinearInputGrad, LinearWeightGrad, LossScale, Lrn, LrnGrad, MaxPool, MaxPoolGrad, Relu, ReluGrad, Sgd,
    Slice, Softmax, SoftmaxCrossEntropy, SoftmaxCrossEntropyGrad, WeightedSum, WeightedSumGrad,
};
use crate::tensor::{Element, Spec};

/// The floating-point types of the references.
pub trait Real:
    std::marker::Copy
    + Debug
    + Default
    + PartialOrd
    + Send
    + Sync
    + 'static
    + std::ops::Add<Output = Self>
    + std::ops::Sub<Output = Self>
    + std::ops::Mul<Output = Self>
    + std::ops::Div<Output = Self>
    + std::ops::Neg<Output = Self>
    + std::ops::AddAssign
    + std::ops::MulAssign
    + std::iter::Sum
{
    /// Rounds to the nearest value of this type.
    fn of(value: f64) -> Self;
    /// The value as f64.
    fn to_f64(self) -> f64;
    /// e to the power of the value.
    fn exp(self) -> Self;
    /// The natural logarithm.
    fn ln(self) -> Self;
    /// The square root.
    fn sqrt(self) -> Self;
    /// The value to the power of `exponent`.
    fn powf(self, exponent: Self) -> Self;
    /// The magnitude.
    fn abs(self) -> Self;
    /// The reference, in this precision, of an operation added by [`register`].
    #[doc(hidden)]
    fn registered<'a>(outside: &Outside, op: &'a dyn Any) -> Option<&'a dyn Reference<Self>>;
    /// The value as a count or an index, rounded down.
    fn to_index(self) -> usize {
        self.to_f64() as usize
    }
    /// The larger of two values.
    fn larger(self, other: Self) -> Self {
        if other > self { other } else { self }
    }
    /// The product of two f32, in this precision.
    fn product(a: f32, b: f32) -> Self {
        Self::of(f64::from(a)) * Self::of(f64::from(b))
    }
    /// Zero.
    fn zero() -> Self {
        Self::of(0.0)
    }
    /// One.
    fn one() -> Self {
        Self::of(1.0)
    }
}

macro_rules! real {
    ($($type:ty as $field:ident),*) => {$(
        impl Real for $type {
            fn of(value: f64) -> Self { value as $type }
            fn to_f64(self) -> f64 { f64::from(self) }
            fn exp(self) -> Self { self.exp() }
            fn ln(self) -> Self { self.ln() }
            fn sqrt(self) -> Self { self.sqrt() }
            fn powf(self, exponent: Self) -> Self { self.powf(exponent) }
            fn abs(self) -> Self { self.abs() }
            fn registered<'a>(outside: &Outside, op: &'a dyn Any) -> Option<&'a dyn Reference<Self>> {
                (outside.$field)(op)
            }
        }
    )*};
}
real!(f32 as single, f64 as double);

/// A dense tensor on the host. Labels and indices are stored as `T` too.
#[derive(Clone, Debug, PartialEq)]
pub struct Array<T> {
    /// Dimensions, outermost first.
    pub dims: Vec<usize>,
    /// Elements in row-major order.
    pub data: Vec<T>,
}

impl<T: Real> Array<T> {
    /// An array of zeros.
    pub fn zeros(dims: &[usize]) -> Self {
        Self { dims: dims.to_vec(), data: vec![T::zero(); dims.iter().product()] }
    }

    /// An array of these elements; `data.len()` must be the product of `dims`.
    pub fn new(dims: &[usize], data: Vec<T>) -> Self {
        debug_assert_eq!(dims.iter().product::<usize>(), data.len());
        Self { dims: dims.to_vec(), data }
    }

    /// The same values in another precision.
    pub fn cast<U: Real>(&self) -> Array<U> {
        Array { dims: self.dims.clone(), data: self.data.iter().map(|x| U::of(x.to_f64())).collect() }
    }

    /// The values rounded to a storage type.
    #[must_use]
    pub fn stored_as(mut self, element: Element) -> Self {
        if element == Element::F16 {
            self.data.iter_mut().for_each(|x| *x = T::of(half::f16::from_f64(x.to_f64()).to_f64()));
        }
        self
    }

    /// The element of a 4-D tensor; `None` outside of it.
    pub fn get(&self, n: usize, c: usize, y: Option<usize>, x: Option<usize>) -> Option<T> {
        let (y, x) = (y.filter(|y| *y < self.dims[2])?, x.filter(|x| *x < self.dims[3])?);
        Some(self.data[self.at(n, c, y, x)])
    }

    /// Index of an element of a 4-D tensor.
    pub fn at(&self, n: usize, c: usize, y: usize, x: usize) -> usize {
        ((n * self.dims[1] + c) * self.dims[2] + y) * self.dims[3] + x
    }
}

/// A CPU implementation of an operation in the precision of `T`.
pub trait Reference<T: Real> {
    /// Computes the outputs, which are passed with the right shapes and filled with zeros. An
    /// output that overwrites its input in place ([`crate::graph::Alias::InPlace`]) is passed as a
    /// copy of that input.
    fn run(&self, inputs: &[&Array<T>], outputs: &mut [Array<T>], step: &Step);

    /// The element at `index` of the only output, of shape `dims`, computed by definition. Used to
    /// check samples of an output where the whole reference is too slow; `None` if unsupported.
    fn element(&self, _inputs: &[&Array<f32>], _dims: &[usize], _index: usize) -> Option<T> {
        None
    }
}

/// Casts of an external operation to its CPU references.
#[doc(hidden)]
#[derive(Clone, Copy, Debug)]
pub struct Outside {
    single: fn(&dyn Any) -> Option<&dyn Reference<f32>>,
    double: fn(&dyn Any) -> Option<&dyn Reference<f64>>,
}

/// External operations with a CPU reference.
static OUTSIDE: RwLock<BTreeMap<TypeId, Outside>> = RwLock::new(BTreeMap::new());

/// Registers the CPU reference of an operation of another crate, so that the operation is checked
/// before tuning and runs in the [`Interpreter`]. Repeated calls have no effect.
pub fn register<O: Operation + Reference<f32> + Reference<f64>>() {
    let outside = Outside {
        single: |op| op.downcast_ref::<O>().map(|op| op as &dyn Reference<f32>),
        double: |op| op.downcast_ref::<O>().map(|op| op as &dyn Reference<f64>),
    };
    OUTSIDE.write().unwrap_or_else(PoisonError::into_inner).insert(TypeId::of::<O>(), outside);
}

/// The CPU reference of an operation in the precision of `T`; `None` for an external one that was
/// not passed to [`register`].
pub fn of<T: Real>(op: &dyn Operation) -> Option<&dyn Reference<T>> {
    let any: &dyn Any = op;
    macro_rules! table {
        ($($operation:ty),* $(,)?) => {
            $(if let Some(op) = any.downcast_ref::<$operation>() {
                return Some(op);
            })*
        };
    }
    table!(
        Accumulate,
        AdamW,
        AdaptiveAvgPool,
        Add,
        Average,
        AvgPool,
        AvgPoolGrad,
        BatchNorm,
        BatchNormGrad,
        ClipNorm,
        Concat,
        Conv,
        ConvBiasGrad,
        ConvInputGrad,
        ConvWeightGrad,
        Copy,
        Dropout,
        Fill,
        Lars,
        Linear,
        LinearBiasGrad,
        LinearInputGrad,
        LinearWeightGrad,
        LossScale,
        Lrn,
        LrnGrad,
        MaxPool,
        MaxPoolGrad,
        Relu,
        ReluGrad,
        Sgd,
        Slice,
        Softmax,
        SoftmaxCrossEntropy,
        SoftmaxCrossEntropyGrad,
        WeightedSum,
        WeightedSumGrad,
    );
    let outside = *OUTSIDE.read().unwrap_or_else(PoisonError::into_inner).get(&any.type_id())?;
    T::registered(&outside, any)
}

/// Runs one operation on the CPU. Outputs stored as f16 are rounded to it.
///
/// # Errors
/// The reason, if the inputs are invalid or the operation has no reference (see [`register`]).
pub fn run_operation<T: Real>(
    op: &dyn Operation,
    specs: &[&Spec],
    inputs: &[&Array<T>],
    step: &Step,
) -> Result<Vec<Array<T>>, String> {
    let reference = of(op).ok_or("has no CPU reference: `incept::reference::register` adds one")?;
    let outputs = op.infer(specs)?;
    let mut arrays: Vec<Array<T>> = outputs.iter().map(|s| Array::zeros(s.dims())).collect();
    for alias in op.aliases(specs) {
        if let crate::graph::Alias::InPlace { output, input } = alias {
            arrays[output] = inputs[input].clone();
        }
    }
    reference.run(inputs, &mut arrays, step);
    Ok(arrays.into_iter().zip(&outputs).map(|(array, spec)| array.stored_as(spec.element)).collect())
}

/// Relative L2 error of `a` against `b`: |a - b| / |b|, or |a| where b is zero.
pub fn relative_error(a: &[f32], b: &[f32]) -> f64 {
    let (mut diff, mut norm) = (0.0f64, 0.0f64);
    for (&x, &y) in a.iter().zip(b) {
        diff += (f64::from(x) - f64::from(y)).powi(2);
        norm += f64::from(y).powi(2);
    }
    if a.len() != b.len() || !diff.is_finite() {
        return f64::INFINITY;
    }
    if norm == 0.0 { diff.sqrt() } else { (diff / norm).sqrt() }
}
