//! The meaning: one value at a time, sums in double precision.

use super::{COLLECT_BLOCK, CollectPart, SurveyPart, WeighPart};

pub(super) fn survey(part: SurveyPart<'_>) {
    for (index, &value) in part.row.iter().enumerate() {
        part.survey.is_finite &= value.is_finite();
        if value > part.survey.largest {
            (part.survey.largest, part.survey.index) = (value, index);
        }
    }
}

pub(super) fn weigh(part: WeighPart<'_>) {
    let WeighPart { args, sum } = part;
    for (weight, logit) in args.weights.iter_mut().zip(args.logits) {
        *weight = ((logit - args.largest) * args.scale).exp();
        *sum += f64::from(*weight);
    }
}

pub(super) fn collect(part: CollectPart<'_>) {
    let CollectPart { args, end } = part;
    let indexed = args.row.iter().zip(0..).skip(args.start);
    for (position, (&value, index)) in indexed.enumerate() {
        if position % COLLECT_BLOCK == 0 && args.found.len() >= args.limit {
            *end = args.start + position;
            return;
        }
        if value >= args.floor {
            args.found.push((value, index));
        }
    }
}
