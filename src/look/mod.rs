//! What a network looks at: class activation maps of each softmax, occlusion maps, the activations
//! of any layer, the filters of the first.

mod features;
mod filters;
mod gradcam;
mod occlusion;

pub use features::{FeatureMaps, Features, layers_with_maps};
pub use filters::filters;
pub use gradcam::{ActivationMap, GradCam};
pub use occlusion::{Occlusion, OcclusionMap};
