//! Visualization: HiResCAM and Grad-CAM maps of each head and how faithful they are, occlusion
//! maps, feature maps of any layer, filters of the first.

mod faithfulness;
mod features;
mod filters;
mod gradcam;
mod occlusion;

pub use faithfulness::Faithfulness;
pub use features::{FeatureMaps, Features, layers_with_maps};
pub use filters::filters;
pub use gradcam::{ActivationMap, CamMethod, GradCam};
pub use occlusion::{Occlusion, OcclusionMap};
