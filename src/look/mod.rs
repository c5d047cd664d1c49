//! Visualization: Grad-CAM maps of each head, occlusion maps, feature maps of any layer, filters of
//! the first.

mod features;
mod filters;
mod gradcam;
mod occlusion;

pub use features::{FeatureMaps, Features, layers_with_maps};
pub use filters::filters;
pub use gradcam::{ActivationMap, GradCam};
pub use occlusion::{Occlusion, OcclusionMap};
