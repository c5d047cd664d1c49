//! Copying rows of a tensor between sessions on the device.

use super::{Gpu, Session};
use crate::error::{Error, Result};
use crate::graph::TensorId;

impl Gpu {
    /// Copies rows (first dimension) of an output of `from` to rows of an input of `to`; `rows` are
    /// pairs of (source row, target row). The copy is ordered after earlier submissions of `from`
    /// and before later ones of `to`. Both tensors are of their plans' graphs.
    ///
    /// # Errors
    /// [`Error::Tensor`] if rows differ in shape or element type or do not exist, [`Error::Config`]
    /// if a session is on another device, and errors of the device.
    pub async fn copy_rows(
        &self,
        from: (&Session, TensorId),
        to: (&Session, TensorId),
        rows: &[(usize, usize)],
    ) -> Result<()> {
        let ((source, output), (target, input)) = (from, to);
        self.require_own(source.gpu())?;
        self.require_own(target.gpu())?;
        let (from, source_place, view) = source.plan().lookup(output)?;
        let (to, target_place, _) = target.plan().lookup(input)?;
        let (spec, other, name) = (&from.spec, &to.spec, &to.name);
        if spec.element != other.element || spec.dims().get(1..) != other.dims().get(1..) {
            return Err(Error::tensor(name, format!("is {other} and cannot receive rows of {spec}")));
        }
        let exist = |row: usize, dims: &[usize]| dims.first().is_some_and(|count| row < *count);
        if let Some((a, b)) = rows.iter().find(|(a, b)| !exist(*a, spec.dims()) || !exist(*b, other.dims())) {
            return Err(Error::tensor(name, format!("cannot copy row {a} of {spec} to row {b} of {other}")));
        }
        let element = (spec.bytes() / spec.shape.volume().max(1)) as u64;
        let length = spec.shape.item() as u64 * element;
        let (offset, stride) = (view.offset as u64 * element, view.batch_stride as u64 * element);
        // Device copies need multiples of 4 bytes; rows with an odd number of f16 go through the
        // host.
        if [length, offset, stride].iter().any(|bytes| !bytes.is_multiple_of(4)) {
            let item = spec.shape.item();
            let (values, mut there) = (source.read(output).await?, target.read(input).await?);
            for (a, b) in rows {
                there[b * item..(b + 1) * item].copy_from_slice(&values[a * item..(a + 1) * item]);
            }
            return target.write(input, &there);
        }
        let (source, target) = (source.buffer(source_place)?, target.buffer(target_place)?);
        let mut encoder = self.device().create_command_encoder(&wgpu::CommandEncoderDescriptor::default());
        for (a, b) in rows {
            let start = source_place.offset + offset + *a as u64 * stride;
            encoder.copy_buffer_to_buffer(
                source,
                start,
                target,
                target_place.offset + *b as u64 * length,
                length,
            );
        }
        self.submit(encoder);
        self.check("copying rows")
    }
}
