//! Proofs that allow implementations to run without bounds checks. All others are compiled with
//! checks: an out-of-range index then accesses something inside the binding.

use std::sync::Arc;

use super::{Cooperative, Implementation, Kernel, Operand, Operands, Profile};

/// The implementation as it was proven. Its fields and those of its kernels are public; any later
/// change invalidates the proof.
#[derive(Debug, PartialEq)]
pub(super) struct Proof {
    inputs: Vec<Operand>,
    outputs: Vec<Operand>,
    kernels: Vec<Kernel>,
    scratch: Vec<u64>,
    /// Subgroup size that the kernels assume.
    subgroup: Option<u32>,
    /// Cooperative matrices that the kernels assume.
    cooperative: Option<Cooperative>,
}

impl Implementation {
    /// Lets the kernels run without bounds checks on exactly these operands, on devices with the
    /// subgroups and matrices of `profile`. Such checks are expensive in inner loops. Any change of
    /// a kernel or of the scratch memory invalidates this.
    ///
    /// Not needed for operations of this crate, see [`offers`](crate::ops::offers).
    ///
    /// # Safety
    /// For any content of the tensors, no kernel may access memory outside its bindings (or their
    /// ranges) or outside its arrays in workgroup and private memory, and no loop may be endless. A
    /// binding has at least the bytes that its operand covers from the start of the tensor's
    /// storage: those before `offset`, `batch_stride` elements for each batch item but the last,
    /// and the last item.
    #[must_use]
    #[expect(unsafe_code, reason = "external authors declare their own kernels safe")]
    pub unsafe fn unchecked(self, operands: &Operands<'_>, profile: &Profile) -> Self {
        self.proven(operands, profile)
    }

    /// As [`Implementation::unchecked`], for the crate's own operations.
    pub(crate) fn proven(mut self, operands: &Operands<'_>, profile: &Profile) -> Self {
        self.proof = Some(Arc::new(Proof {
            inputs: operands.inputs.to_vec(),
            outputs: operands.outputs.to_vec(),
            kernels: self.kernels.clone(),
            scratch: self.scratch.clone(),
            subgroup: profile.subgroup,
            cooperative: profile.cooperative,
        }));
        self
    }

    /// Whether exactly this implementation is proven for these operands and this profile.
    pub(crate) fn is_proven(&self, inputs: &[Operand], outputs: &[Operand], profile: &Profile) -> bool {
        self.proof.as_ref().is_some_and(|proof| {
            proof.inputs == inputs
                && proof.outputs == outputs
                && proof.kernels == self.kernels
                && proof.scratch == self.scratch
                && (proof.subgroup.is_none() || proof.subgroup == profile.subgroup)
                && (proof.cooperative == profile.cooperative || self.kernels.iter().all(|k| !k.cooperative))
        })
    }
}
