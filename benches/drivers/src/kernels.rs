//! The kernels that do the arithmetic of single convolutions.

use incept::kernel::{Kernel, Operand, Operands, Profile, choose};

use crate::Result;
use crate::layers::{Direction, Layer};

/// The main kernel of the default implementation, or with `all` of every one, with the
/// implementation's name.
pub fn of(
    layer: &Layer,
    direction: Direction,
    batch: usize,
    profile: &Profile,
    all: bool,
) -> Result<Vec<(&'static str, Kernel)>> {
    let (op, inputs) = layer.operation(direction, batch);
    let outputs = op.infer(&inputs.iter().collect::<Vec<_>>())?;
    let [inputs, outputs] =
        [inputs.to_vec(), outputs].map(|specs| specs.into_iter().map(Operand::dense).collect::<Vec<_>>());
    let operands = Operands { layer: layer.name, inputs: &inputs, outputs: &outputs };
    let list = op.kernels(&operands, profile);
    let chosen = choose(&list, profile).map(|i| i.name);
    let wanted = list.iter().filter(|i| i.fits(profile) && (all || Some(i.name) == chosen));
    // The kernel that computes a product reports its traffic.
    let main = |kernels: &[Kernel]| {
        let flops = |k: &&Kernel| k.traffic.as_ref().map_or(0, |t| t.flops);
        kernels.iter().max_by_key(flops).cloned()
    };
    Ok(wanted.filter_map(|i| Some((i.name, main(&i.kernels)?))).collect())
}
