//! The gradient of the bias: sums of dy over batch and pixels; see `conv.wgsl`.

use super::shared::accessed;
use crate::kernel::{AdapterClass, Implementation, Kernel, Operands, Profile, Slot};

const SOURCE: &str = include_str!("../../../shaders/conv.wgsl");

/// The implementations, for GPUs and for software drivers.
pub(super) fn gradient(operands: &Operands<'_>, profile: &Profile) -> Vec<Implementation> {
    let dy = &operands.inputs[0];
    let [items, outputs, plane] = dy.spec.shape.ncs();
    let planes = |entry, plane: usize| {
        Kernel::new(operands, SOURCE, entry).groupable().geometries([
            ("items", items),
            ("outputs", outputs),
            ("plane", plane),
            ("y_offset", dy.offset),
            ("y_stride", dy.batch_stride),
        ])
    };
    let second = |entry, sums: usize| {
        Kernel::new(operands, SOURCE, entry)
            .groupable()
            .geometries([("items", sums), ("outputs", outputs)])
            .bind("partial", Slot::Scratch(0))
            .bind("db", Slot::Output(0))
    };
    // Workgroups have 64 invocations, so a compute unit of a GPU holds many.
    let most = (8 * profile.wanted_workgroups()).div_ceil(outputs).min(items);
    let chunk = items.div_ceil(most);
    let parts = items.div_ceil(chunk);
    let vector = plane.is_multiple_of(4) && dy.is_aligned(4);
    let first = planes("bias_parts_tiled", if vector { plane / 4 } else { plane })
        .geometry("chunk", chunk)
        .constant("VECTOR", vector)
        .bind_as("dy_data", Slot::Input(0), accessed(vector))
        .linear_groups(parts * outputs);
    let tiled = if parts == 1 {
        Implementation::new("tiled", vec![first.bind("partial", Slot::Output(0))])
    } else {
        let kernels = vec![
            first.bind("partial", Slot::Scratch(0)),
            second("sum_items_tiled", parts).linear_groups(outputs),
        ];
        Implementation::new("tiled", kernels).scratch(parts * outputs)
    };
    let serial = planes("bias_planes", plane)
        .bind("dy_data", Slot::Input(0))
        .bind("partial", Slot::Scratch(0))
        .workgroup(8, 1, 1)
        .linear(items * outputs);
    vec![
        tiled.workgroup_memory(4 * 64).suits(AdapterClass::GPU),
        Implementation::new("serial", vec![serial, second("sum_items", items).linear(outputs)])
            .scratch(items * outputs)
            .suits(AdapterClass::SOFTWARE),
    ]
}
