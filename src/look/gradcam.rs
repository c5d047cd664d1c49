//! Heat maps of the evidence for a class, for each of the three heads, from the gradient of the
//! class's logit with respect to the last Inception block before the head: 5b for main, 4a for
//! aux1, 4d for aux2. The map is the ReLU of the sum over the block's channels, each weighted as
//! [`CamMethod`] says.

use std::fmt::Display;
use std::sync::Arc;

use crate::device::{Device, Regions, Session};
use crate::error::{Error, Result};
use crate::graph::{Graph, Region, Role, TensorId};
use crate::infer::softmax;
use crate::kernel::Step;
use crate::model::{Head, Model, Network, Output};
use crate::ops::Linear;
use crate::optim::TrainingState;
use crate::plan::{Layout, Plan, PlanOptions};
use crate::tensor::Spec;
use crate::train::upload;

/// Name of the graph input that selects a class.
const TARGET: &str = "target";
/// The output with the gradient of that class's logit.
const GRADIENT: &str = "gradient";

/// How the gradient weights the channels of the block.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum CamMethod {
    /// HiResCAM (Draelos and Carin, "Use HiResCAM instead of Grad-CAM for faithful explanations of
    /// convolutional neural networks", 2020): activation times gradient at each position. If the
    /// head is linear in the activations, as average pooling and a linear layer are, the sum over
    /// all positions before the ReLU is the logit minus the bias.
    #[default]
    HiResCam,
    /// Grad-CAM (Selvaraju et al., "Grad-CAM: Visual Explanations from Deep Networks via
    /// Gradient-based Localization", 2017): activation times the gradient's mean over all
    /// positions. Before a head with fully connected layers, as the auxiliary ones, where the
    /// gradient depends on the position, it may show evidence where the network has none, or none
    /// at all.
    GradCam,
}

/// A heat map of the evidence for a class.
#[derive(Clone, Debug, PartialEq)]
pub struct ActivationMap {
    /// `main`, `aux1` or `aux2`.
    pub head: &'static str,
    /// The class of the map.
    pub class: usize,
    /// Its logit by this head.
    pub logit: f32,
    /// Its probability by this head, in [0, 1].
    pub probability: f32,
    /// This head's most probable class and its probability.
    pub top: (usize, f32),
    /// Height of the map.
    pub height: usize,
    /// Width of the map.
    pub width: usize,
    /// height x width non-negative values, in units of the logit.
    pub values: Vec<f32>,
    /// Sum over all positions before the ReLU, in units of the logit.
    pub sum: f32,
}

impl ActivationMap {
    /// The largest value, in units of the logit; 0 without evidence anywhere.
    pub fn maximum(&self) -> f32 {
        self.values.iter().copied().fold(0.0, f32::max)
    }
}

/// A network in evaluation mode that can be differentiated from each of its logits.
#[derive(Debug)]
pub struct GradCam {
    device: Device,
    heads: Vec<Differentiated>,
    classes: usize,
    method: CamMethod,
}

/// The network up to one head, and the gradient from its logits to the block before it.
#[derive(Debug)]
struct Differentiated {
    name: &'static str,
    session: Session,
    input: TensorId,
    target: TensorId,
    logits: TensorId,
    activation: TensorId,
    gradient: TensorId,
    /// Channels, rows and columns of the activation.
    extents: [usize; 3],
}

impl GradCam {
    /// The network with these weights on a device, with a batch size of 1.
    ///
    /// # Errors
    /// [`Error::Tensor`] naming a weight that is missing or has the wrong shape, and errors of the
    /// device.
    pub async fn new(
        device: impl Into<Device>,
        network: &impl Model,
        weights: &TrainingState,
    ) -> Result<Self> {
        let device = &device.into();
        let net = network.build(1)?.evaluation()?;
        let layout = Arc::new(Layout::of(&net.graph));
        let mut regions: Option<Regions> = None;
        let mut heads = Vec::with_capacity(net.heads.len());
        for head in &net.heads {
            let one = Differentiated::new(device, &net.graph, head, &layout, regions.clone()).await?;
            if regions.is_none() {
                let made = one.session.regions();
                upload(device, made, Region::Parameters, &weights.parameters)?;
                if !made.layout().state.is_empty() {
                    upload(device, made, Region::State, &weights.state)?;
                }
                regions = Some(made.clone());
            }
            heads.push(one);
        }
        let method = CamMethod::default();
        Ok(Self { device: device.clone(), heads, classes: network.class_count(), method })
    }

    /// Sets the method of the maps, by default HiResCAM.
    #[must_use]
    pub fn method(self, method: CamMethod) -> Self {
        Self { method, ..self }
    }

    /// Checks a class given by the caller.
    fn require_class(&self, class: usize) -> Result<()> {
        if class < self.classes {
            return Ok(());
        }
        let allowed = format!("below {}, the network's classes", self.classes);
        Err(Error::out_of_range("ActivationMap::class", allowed, class))
    }

    /// The probability of a class of a preprocessed image by a head, in [0, 1].
    ///
    /// # Errors
    /// [`Error::Tensor`] if the image has the wrong size, [`Error::Unknown`] if there is no such
    /// head, [`Error::OutOfRange`] if there is no such class, and errors of the device.
    pub async fn probability(&mut self, head: &str, image: &[f32], class: usize) -> Result<f32> {
        self.require_class(class)?;
        let known = || format!("the heads are {}", self.heads().join(", "));
        let unknown = Error::Unknown { what: "head", name: head.to_string(), known: known() };
        let head = self.heads.iter_mut().find(|h| h.name == head).ok_or(unknown)?;
        head.run(image, class, self.classes)?;
        let logits = head.session.read(head.logits).await?;
        self.device.check("computing a probability")?;
        Ok(softmax(&logits, 1.0)[class])
    }

    /// The heads, the main one first.
    pub fn heads(&self) -> Vec<&'static str> {
        self.heads.iter().map(|h| h.name).collect()
    }

    /// The map of each head for a class of a preprocessed image
    /// ([`Preprocessing::apply`](crate::data::Preprocessing::apply)); by default the main head's
    /// most probable class.
    ///
    /// # Errors
    /// [`Error::Tensor`] if the image has the wrong size, [`Error::OutOfRange`] if there is no such
    /// class, and errors of the device.
    pub async fn maps(&mut self, image: &[f32], class: Option<usize>) -> Result<Vec<ActivationMap>> {
        class.map_or(Ok(()), |class| self.require_class(class))?;
        let mut wanted = class;
        let mut maps = Vec::with_capacity(self.heads.len());
        for head in &mut self.heads {
            let class = match wanted {
                Some(class) => class,
                None => {
                    // The forward pass needs some target; the probabilities do not depend on it.
                    head.run(image, 0, self.classes)?;
                    most(&head.session.read(head.logits).await?)
                }
            };
            wanted = Some(class);
            head.run(image, class, self.classes)?;
            maps.push(head.map(class, self.method).await?);
            self.device.check("computing a heat map")?;
        }
        Ok(maps)
    }
}

impl Differentiated {
    async fn new(
        device: &Device,
        evaluation: &Graph,
        head: &Head,
        layout: &Arc<Layout>,
        regions: Option<Regions>,
    ) -> Result<Self> {
        let mut graph = evaluation.clone();
        let classes = graph.tensor(head.logits).spec.shape.item();
        // The scalar to differentiate: the logits times the one-hot row of the class.
        let target = graph.input(TARGET, Spec::f32([1, classes]));
        let zero = graph.add_tensor("target/bias", Spec::f32([1]), Role::Constant(Arc::new(vec![0.0])));
        let score = graph.add("score", Linear { relu: false }, &[head.logits, target, zero])?;
        let gradient = graph.gradient_of(score, head.tap)?;
        let tap = graph.tensor(head.tap);
        let [_, extents @ ..] = tap.spec.shape.nchw().map_err(|reason| Error::tensor(&tap.name, reason))?;
        graph.set_output(GRADIENT, gradient);
        let names: [&dyn Display; 3] = [&Output::Logits(head.name), &Output::Tap(head.name), &GRADIENT];
        let graph = graph.prune(&names)?;
        let [logits, activation, gradient] = names.map(|name| graph.output(name));
        let outputs = [logits?, activation?, gradient?];
        let options = PlanOptions {
            profile: device.profile(),
            outputs: &outputs,
            metrics: &[],
            layout: Some(Arc::clone(layout)),
            choices: Some(&device.choices()),
        };
        let plan = Plan::new(&graph, &options)?;
        let [logits, activation, gradient] = outputs;
        let (logits, activation, gradient) =
            (plan.tensor(logits)?, plan.tensor(activation)?, plan.tensor(gradient)?);
        let input = plan.tensor(graph.find(Network::INPUT)?)?;
        let target = plan.tensor(graph.find(TARGET)?)?;
        let session = Session::new(device, Arc::new(plan), regions, |_, _| ()).await?;
        Ok(Self { name: head.name, session, input, target, logits, activation, gradient, extents })
    }

    fn run(&mut self, image: &[f32], class: usize, classes: usize) -> Result<()> {
        let target: Vec<f32> = (0..classes).map(|c| f32::from(u8::from(c == class))).collect();
        self.session.write(self.input, image)?;
        self.session.write(self.target, &target)?;
        self.session.submit(&Step::default())?;
        Ok(())
    }

    async fn map(&self, class: usize, method: CamMethod) -> Result<ActivationMap> {
        let logits = self.session.read(self.logits).await?;
        let activation = self.session.read(self.activation).await?;
        let gradient = self.session.read(self.gradient).await?;
        let probabilities = softmax(&logits, 1.0);
        let top = most(&logits);
        let [_, height, width] = self.extents;
        let signed = weighted(&activation, &gradient, height * width, method);
        Ok(ActivationMap {
            head: self.name,
            class,
            logit: logits[class],
            probability: probabilities[class],
            top: (top, probabilities[top]),
            height,
            width,
            sum: signed.iter().sum(),
            values: signed.iter().map(|v| v.max(0.0)).collect(),
        })
    }
}

/// The sum of channels weighted by their gradients, or by the means of these; `plane` positions.
fn weighted(activation: &[f32], gradient: &[f32], plane: usize, method: CamMethod) -> Vec<f32> {
    let mut map = vec![0.0; plane];
    for (channel, gradient) in activation.chunks(plane).zip(gradient.chunks(plane)) {
        let mean = gradient.iter().sum::<f32>() / plane as f32;
        for ((sum, a), g) in map.iter_mut().zip(channel).zip(gradient) {
            *sum += a * if method == CamMethod::GradCam { mean } else { *g };
        }
    }
    map
}

/// The index and value of the maximum; the first in a tie.
fn most(values: &[f32]) -> usize {
    crate::infer::top(values, 1).first().map_or(0, |p| p.class)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn maps_match_hand_computed_ones() {
        // Two channels of 1 x 2: with means, the weights are (1 + 3) / 2 = 2 and -1.
        let map = |method| weighted(&[1.0, 2.0, 5.0, 1.0], &[1.0, 3.0, -1.0, -1.0], 2, method);
        assert_eq!(map(CamMethod::GradCam), [-3.0, 3.0]);
        assert_eq!(map(CamMethod::HiResCam), [-4.0, 5.0]);
    }
}
