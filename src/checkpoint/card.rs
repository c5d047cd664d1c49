//! Model cards: how to use an exported network without this program, in words and as a Python
//! program.

use super::{ModelCheckpoint, OnnxOptions};
use crate::data::{Fit, Preprocessing};
use crate::error::Result;
use crate::model::Model;
use crate::text::plural;
use crate::untrusted::printable;

/// Preprocessing steps from an image to the network's input: key in the model's metadata, and
/// description.
fn steps(p: &Preprocessing) -> [(&'static str, String); 6] {
    let size = p.input;
    let side = p.resized_side();
    let crop = match p.fit {
        Fit::Crop if side == size => {
            "the largest central square: side = min(width, height), left = floor((width - side) / 2), top = floor((height - side) / 2)"
                .to_string()
        }
        Fit::Crop => format!("the shorter side is resized to {side}, then the central {size} x {size} are cropped"),
        Fit::Squash if side == size => "none: the whole image is squashed to a square".to_string(),
        Fit::Squash => {
            format!("the whole image is squashed to {side} x {side}, then the central {size} x {size} are cropped")
        }
        Fit::Pad => {
            "none: the whole image is resized to fit into the square, and the rest is filled with the mean color"
                .to_string()
        }
    };
    [
        ("image", "8 bits per channel, EXIF orientation applied; gray is repeated in all channels, transparency is blended with white".into()),
        ("crop", crop),
        ("resize", format!("to {size} x {size}, bilinear with antialiasing (Pillow's BILINEAR), rounded to 8 bits")),
        ("range", "divided by 255: from 0 to 1".into()),
        ("normalize", format!("minus mean {:?}, divided by std {:?}, per channel", p.mean, p.std)),
        ("channels", format!("red, green, blue, as planes: float32, batch x 3 x {size} x {size}")),
    ]
}

/// The steps as one text.
pub(super) fn in_words(p: &Preprocessing) -> String {
    let steps = steps(p).map(|(name, what)| format!("{name}: {what}"));
    steps.join(". ")
}

/// The steps and the names of the classes as metadata entries, by key.
pub(super) fn for_programs<M: Model>(checkpoint: &ModelCheckpoint<M>) -> Vec<(String, String)> {
    let metadata = &checkpoint.metadata;
    let p = &metadata.preprocessing;
    let three = |values: &[f32; 3]| serde_json::json!(values).to_string();
    let mut entries: Vec<(String, String)> =
        steps(p).map(|(name, what)| (format!("preprocessing.{name}"), what)).to_vec();
    entries.extend([
        ("classes".into(), serde_json::json!(metadata.classes).to_string()),
        ("input_size".into(), p.input.to_string()),
        ("mean".into(), three(&p.mean)),
        ("std".into(), three(&p.std)),
        ("channel_order".into(), "RGB".into()),
    ]);
    entries
}

/// Python that classifies `photo.jpg` with onnxruntime, Pillow and numpy.
fn program(p: &Preprocessing, file: &str) -> String {
    let (size, mean, std, side) = (p.input, p.mean, p.std, p.resized_side());
    let none = String::new;
    let (square, crop) = match p.fit {
        Fit::Crop if side == size => (
            "side = min(image.size); left, top = (image.width - side) // 2, (image.height - side) // 2\n"
                .into(),
            ".crop((left, top, left + side, top + side))".into(),
        ),
        Fit::Crop => (
            format!(
                "image = image.resize([round({side} / min(image.size) * extent) for extent in image.size], \
                 Image.BILINEAR); left, top = (image.width - {size}) // 2, (image.height - {size}) // 2\n"
            ),
            format!(".crop((left, top, left + {size}, top + {size}))"),
        ),
        Fit::Squash if side == size => (none(), none()),
        Fit::Squash => {
            let (start, end) = ((side - size) / 2, (side - size) / 2 + size);
            (
                none(),
                format!(".resize(({side}, {side}), Image.BILINEAR).crop(({start}, {start}, {end}, {end}))"),
            )
        }
        Fit::Pad => {
            let [r, g, b] = mean.map(|mean| (255.0 * mean).round() as u8);
            (
                format!("image = ImageOps.pad(image, ({size}, {size}), Image.BILINEAR, ({r}, {g}, {b}))\n"),
                none(),
            )
        }
    };
    let file = serde_json::json!(file);
    format!(
        "import json, numpy as np, onnxruntime
from PIL import Image, ImageOps

net = onnxruntime.InferenceSession({file})
image = ImageOps.exif_transpose(Image.open(\"photo.jpg\")).convert(\"RGB\")
{square}x = np.float32(image{crop}.resize(({size}, {size}), Image.BILINEAR)) / 255
x = ((x - np.float32({mean:?})) / np.float32({std:?})).transpose(2, 0, 1)[None]
print(json.loads(net.get_modelmeta().custom_metadata_map[\"classes\"])[net.run([\"logits\"], {{\"data\": x}})[0].argmax()])"
    )
}

/// A name, escaped for a cell of a Markdown table.
fn cell(name: &str) -> String {
    printable(name).replace('\\', "\\\\").replace('|', "\\|").replace('`', "\\`").replace('<', "&lt;")
}

impl<M: Model> ModelCheckpoint<M> {
    /// A model card in Markdown for the ONNX model of [`Checkpoint::to_onnx`], saved as `file`:
    /// inputs and outputs, preprocessing, classes, and an example program.
    ///
    /// # Errors
    /// Errors of [`Model::build`].
    pub fn onnx_card(&self, options: OnnxOptions, file: &str) -> Result<String> {
        let metadata = &self.metadata;
        let (network, p) = (&metadata.network, &metadata.preprocessing);
        let outputs = self.onnx_outputs(options)?.join("`, `");
        let steps: String = steps(p).iter().map(|(name, what)| format!("| {name} | {what} |\n")).collect();
        let classes: String = metadata
            .classes
            .iter()
            .enumerate()
            .map(|(i, name)| format!("| {i} | {} |\n", cell(name)))
            .collect();
        Ok(format!(
            "# {title}

{network}, {of_classes}, exported by {program_name} {version}. ONNX, operators of version 17.

## Input

`data`: float32, batch x 3 x {size} x {size}; the batch is open. An image becomes it in this order:

| step | |
| --- | --- |
{steps}
## Output

`{outputs}`: batch x {count}, before softmax.

## Use

With onnxruntime, Pillow and numpy; the same class as `{program_name} classify`:

```python
{program}
```

## Classes

| number | name |
| --- | --- |
{classes}",
            title = cell(file),
            network = network.title(),
            count = network.class_count(),
            of_classes = plural(network.class_count(), "class"),
            program_name = env!("CARGO_PKG_NAME"),
            version = env!("CARGO_PKG_VERSION"),
            size = p.input,
            program = program(p, file),
        ))
    }
}
