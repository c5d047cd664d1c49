//! Export of inference operations as ONNX operators.

use super::{OnnxAttribute, OnnxExport, int, ints};
use crate::graph::{Add, Operation};
use crate::ops::{AdaptiveAvgPool, AvgPool, BatchNorm, Concat, Conv, Linear, Lrn, MaxPool, Relu};

/// An operation that can be exported to ONNX.
trait ToOnnx {
    /// Adds the equivalent ONNX nodes.
    ///
    /// # Errors
    /// The reason, if these attributes cannot be exported.
    fn onnx(&self, export: &mut OnnxExport<'_>) -> Result<(), String>;
}

/// Adds an operation to a model.
///
/// # Errors
/// The reason, if the operation cannot be exported.
pub(super) fn export(op: &dyn Operation, export: &mut OnnxExport<'_>) -> Result<(), String> {
    macro_rules! table {
        ($($operation:ty),*) => {
            $(if let Some(op) = op.downcast_ref::<$operation>() {
                return op.onnx(export);
            })*
        };
    }
    table!(Add, AvgPool, AdaptiveAvgPool, BatchNorm, Concat, Conv, Linear, Lrn, MaxPool, Relu);
    Err("has no ONNX equivalent".into())
}

impl ToOnnx for Add {
    fn onnx(&self, export: &mut OnnxExport<'_>) -> Result<(), String> {
        export.node("Add", export.inputs(), &[]);
        Ok(())
    }
}

impl ToOnnx for AvgPool {
    fn onnx(&self, export: &mut OnnxExport<'_>) -> Result<(), String> {
        let attributes = [
            ("kernel_shape", ints([self.kernel; 2])),
            ("strides", ints([self.stride; 2])),
            ("pads", ints([self.padding; 4])),
            ("ceil_mode", OnnxAttribute::Int(self.ceil.into())),
        ];
        export.node("AveragePool", export.inputs(), &attributes);
        Ok(())
    }
}

impl ToOnnx for AdaptiveAvgPool {
    fn onnx(&self, export: &mut OnnxExport<'_>) -> Result<(), String> {
        let [_, _, height, width] = export.spec(0).shape.nchw()?;
        let [out_height, out_width] = self.output;
        if self.output == [1, 1] {
            export.node("GlobalAveragePool", export.inputs(), &[]);
        } else if height.is_multiple_of(out_height) && width.is_multiple_of(out_width) {
            let window = [height / out_height, width / out_width];
            let attributes = [("kernel_shape", ints(window)), ("strides", ints(window))];
            export.node("AveragePool", export.inputs(), &attributes);
        } else {
            let share = |o: usize, i: usize, size: usize, count: usize| {
                let window = o * size / count..((o + 1) * size).div_ceil(count);
                if window.contains(&i) { 1.0 / window.len() as f32 } else { 0.0 }
            };
            let columns =
                (0..width * out_width).map(|k| share(k % out_width, k / out_width, width, out_width));
            let rows = (0..out_height * height).map(|k| share(k / height, k % height, height, out_height));
            let columns = export.constant("columns", &[width, out_width], columns.collect());
            let rows = export.constant("rows", &[out_height, height], rows.collect());
            let x = export.node("MatMul", vec![export.input(0), columns], &[]);
            export.node("MatMul", vec![rows, x], &[]);
        }
        Ok(())
    }
}

impl ToOnnx for BatchNorm {
    fn onnx(&self, export: &mut OnnxExport<'_>) -> Result<(), String> {
        if self.training {
            return Err("is a batch norm in training mode: export the evaluation graph".into());
        }
        let attributes = [("epsilon", OnnxAttribute::Float(self.epsilon))];
        export.node("BatchNormalization", export.inputs(), &attributes);
        export.relu(self.relu);
        Ok(())
    }
}

impl ToOnnx for Concat {
    fn onnx(&self, export: &mut OnnxExport<'_>) -> Result<(), String> {
        export.node("Concat", export.inputs(), &[("axis", OnnxAttribute::Int(1))]);
        Ok(())
    }
}

impl ToOnnx for Conv {
    fn onnx(&self, export: &mut OnnxExport<'_>) -> Result<(), String> {
        if self.norm.is_some() {
            return Err("has a fused batch norm: export the graph before fusion".into());
        }
        let kernel = export.spec(1).dims()[2..].to_vec();
        let [y, x] = self.padding;
        let attributes =
            [("kernel_shape", ints(kernel)), ("strides", ints(self.stride)), ("pads", ints([y, x, y, x]))];
        export.node("Conv", export.inputs(), &attributes);
        export.relu(self.relu);
        Ok(())
    }
}

impl ToOnnx for Linear {
    fn onnx(&self, export: &mut OnnxExport<'_>) -> Result<(), String> {
        let mut inputs = export.inputs();
        if export.spec(0).dims().len() > 2 {
            inputs[0] = export.node("Flatten", vec![export.input(0)], &[("axis", OnnxAttribute::Int(1))]);
        }
        export.node("Gemm", inputs, &[("transB", OnnxAttribute::Int(1))]);
        export.relu(self.relu);
        Ok(())
    }
}

impl ToOnnx for Lrn {
    fn onnx(&self, export: &mut OnnxExport<'_>) -> Result<(), String> {
        let attributes = [
            ("size", int(self.size)),
            ("alpha", OnnxAttribute::Float(self.alpha)),
            ("beta", OnnxAttribute::Float(self.beta)),
            ("bias", OnnxAttribute::Float(self.k)),
        ];
        export.node("LRN", export.inputs(), &attributes);
        Ok(())
    }
}

impl ToOnnx for MaxPool {
    fn onnx(&self, export: &mut OnnxExport<'_>) -> Result<(), String> {
        let attributes = [
            ("kernel_shape", ints([self.kernel; 2])),
            ("strides", ints([self.stride; 2])),
            ("pads", ints([self.padding; 4])),
            ("ceil_mode", OnnxAttribute::Int(self.ceil.into())),
        ];
        export.node("MaxPool", export.inputs(), &attributes);
        Ok(())
    }
}

impl ToOnnx for Relu {
    fn onnx(&self, export: &mut OnnxExport<'_>) -> Result<(), String> {
        export.node("Relu", export.inputs(), &[]);
        Ok(())
    }
}
