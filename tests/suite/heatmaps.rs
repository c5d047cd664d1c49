//! Heat maps of a head: what their sum is, and how faithful they are.

use incept::Result;
use incept::look::{ActivationMap, CamMethod, GradCam};
use incept::model::{Model, Network, NetworkBuilder};
use incept::optim::Optimizer;
use incept::train::Trainer;

use crate::support::cpu;

/// A network whose head is one fully connected layer: linear in the activations, with weights that
/// depend on the position.
#[derive(Clone, Debug, serde::Serialize, serde::Deserialize)]
struct Connected;

impl Model for Connected {
    fn class_count(&self) -> usize {
        3
    }

    fn input_size(&self) -> usize {
        16
    }

    fn build(&self, batch: usize) -> Result<Network> {
        let mut net = NetworkBuilder::new(batch, self.input_size());
        let images = net.images();
        let x = net.conv("conv", images, 6, [3, 4, 1])?;
        let x = net.relu("relu", x)?;
        let logits = net.linear("fc", x, self.class_count())?;
        net.head(Network::MAIN, 1.0, x, logits)?;
        net.finish()
    }
}

/// The network with initial weights, in which class 2 has this bias.
fn connected(bias: f32) -> GradCam {
    let device = cpu();
    let trainer = device.block_on(Trainer::new(device, &Connected, &Optimizer::default(), 1, 5, |_, _| ()));
    let mut state = device.block_on(trainer.expect("a trainer").state()).expect("weights");
    state.parameters.get_mut("fc.bias").expect("a bias").data[2] = bias;
    device.block_on(GradCam::new(device, &Connected, &state)).expect("a graph")
}

fn image() -> Vec<f32> {
    (0..3 * 16 * 16).map(|i| ((i * 37 % 101) as f32 - 50.0) / 25.0).collect()
}

/// Completeness (Draelos and Carin 2020): with a head that is linear in the activations, HiResCAM
/// distributes the logit without its bias over the positions. Grad-CAM does not.
#[test]
fn hirescam_sums_to_the_logit_without_bias() {
    let device = cpu();
    let (bias, image) = (0.75, image());
    let mut hirescam = connected(bias);
    let map = device.block_on(hirescam.maps(&image, Some(2))).expect("maps").remove(0);
    assert!((map.height, map.width) == (4, 4) && map.logit.abs() > 0.1, "{map:?}");
    assert!((map.sum - (map.logit - bias)).abs() < 1e-4 * map.logit.abs().max(1.0), "{map:?}");
    assert!(map.values.iter().all(|v| *v >= 0.0) && map.maximum() > 0.0, "{map:?}");
    let mut gradcam = connected(bias).method(CamMethod::GradCam);
    let other = device.block_on(gradcam.maps(&image, Some(2))).expect("maps").remove(0);
    assert_eq!(other.logit, map.logit);
    assert!((other.sum - (map.logit - bias)).abs() > 1e-2, "{other:?}");
}

/// The curves begin and end at the whole image and the mean color, and an order of pixels by what
/// they contribute deletes the class earlier than the opposite order.
#[test]
fn deletion_and_insertion_follow_the_map() {
    let device = cpu();
    let mut hirescam = connected(0.0);
    let image = image();
    let map = device.block_on(hirescam.maps(&image, Some(2))).expect("maps").remove(0);
    let mut opposite = map.clone();
    let most = map.maximum();
    opposite.values.iter_mut().for_each(|v| *v = most - *v);
    let whole = device.block_on(hirescam.probability("main", &image, 2)).expect("a probability");
    let none = device.block_on(hirescam.probability("main", &vec![0.0; image.len()], 2)).expect("one");
    let mut curves =
        |map: &ActivationMap| device.block_on(hirescam.faithfulness(&image, map, 8, 1)).expect("curves");
    let (ours, theirs) = (curves(&map), curves(&opposite));
    for curves in [&ours, &theirs] {
        assert_eq!((curves.deletion.len(), curves.insertion.len()), (9, 9));
        assert_eq!((curves.deletion[0], curves.deletion[8]), (whole, none));
        assert_eq!((curves.insertion[0], curves.insertion[8]), (none, whole));
    }
    assert!(ours.deletion_area() < theirs.deletion_area(), "{ours:?} {theirs:?}");
    assert!(ours.insertion_area() > theirs.insertion_area(), "{ours:?} {theirs:?}");
    let mut blank = map.clone();
    blank.values.iter_mut().for_each(|v| *v = 0.0);
    let random = curves(&blank);
    assert!(random.deletion_area() > ours.deletion_area(), "{random:?} {ours:?}");
    assert!(device.block_on(hirescam.faithfulness(&image, &map, 0, 1)).is_err());
    assert!(device.block_on(hirescam.probability("aux1", &image, 2)).is_err());
    assert!(device.block_on(hirescam.probability("main", &image, 3)).is_err());
}
