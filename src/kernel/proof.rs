//! Which implementations run without checks of bounds. All others are compiled with them: an index
//! out of range then reads or writes something in range, and nothing outside of its binding.

use std::sync::Arc;

use super::{Cooperative, Implementation, Kernel, Operand, Operands, Profile};

/// What an implementation was when somebody vouched for it. Its fields are public, and so are those
/// of its kernels: what has been changed since is no longer vouched for.
#[derive(Debug, PartialEq)]
pub(super) struct Proof {
    inputs: Vec<Operand>,
    outputs: Vec<Operand>,
    kernels: Vec<Kernel>,
    scratch: Vec<u64>,
    /// Invocations of a subgroup that the kernels may count on.
    subgroup: Option<u32>,
    /// The matrices that they may count on.
    cooperative: Option<Cooperative>,
}

impl Implementation {
    /// Lets the kernels run without checks of bounds on exactly these operands, on devices with
    /// subgroups and matrices as `profile` says. In inner loops, such checks take a large part of a
    /// kernel's speed. The promise is lost as soon as a kernel or the scratch memory is changed.
    ///
    /// The operations of this crate need not be promised anything about:
    /// [`offers`](crate::ops::offers) knows them.
    ///
    /// # Safety
    /// Whatever the tensors hold, no kernel may read or write outside of its bindings (where a
    /// binding has a range, outside of that) or of its arrays in workgroup and private memory, and
    /// no loop may run forever. A binding has at least the bytes that its operand covers from the
    /// start of the tensor's storage on: those before `offset`, and `batch_stride` elements for
    /// each item of the batch but the last.
    #[must_use]
    #[expect(
        unsafe_code,
        reason = "an author from outside of the crate vouches for kernels that the crate cannot know"
    )]
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

    /// Whether somebody has vouched for exactly this on exactly these operands, for a device with
    /// this profile.
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
