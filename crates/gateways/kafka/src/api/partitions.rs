//! CreatePartitions and DeleteRecords: more partitions, and fewer records in them.

use super::topics;
use crate::error::{self, Code};
use crate::gateway::{Gateway, Who, stream_of};
use crate::wire::{Malformed, Reader, Writer};
use quorate_types::{Commit, Mode, Offset, Op, OpResult};

/// What stands for the end of a partition.
const END: i64 = -1;

pub(super) async fn create(
    gateway: &Gateway,
    who: &Who,
    body: &mut Reader,
    out: &mut Writer,
) -> Result<(), Malformed> {
    let asked = body.list(|body| {
        let (name, count) = (body.text()?, body.i32()?);
        let assigned = body.maybe_list(|body| {
            body.list(Reader::i32)?;
            body.tags()
        })?;
        body.tags()?;
        Ok((name, count, assigned.is_some_and(|assigned| !assigned.is_empty())))
    })?;
    body.i32()?; // How long it may take: as long as any command.
    let only_check = body.bool()?;
    body.tags()?;
    let most = gateway.limits.partitions_max;
    let wanted = gateway.read(|machine| {
        let one = |(name, count, assigned): &(String, i32, bool)| {
            let stream = stream_of(name).ok_or((Code::InvalidTopicException, "no topic has such a name"))?;
            let view = machine.stream(&stream);
            let mut settings =
                view.ok_or((Code::UnknownTopicOrPartition, "there is no such topic"))?.settings;
            if *assigned {
                return Err((
                    Code::InvalidReplicaAssignment,
                    "every partition is at every node: assign none",
                ));
            }
            let count = u32::try_from(*count).unwrap_or(0);
            if count <= settings.partitions || u64::from(count) > most {
                return Err((Code::InvalidPartitions, "wanted more than there are, within the bound"));
            }
            settings.partitions = count;
            let op = Op::AlterStream { stream, settings };
            // Who only asks learns no more than who does it.
            let allowed = machine.may(&who.principal, &op).is_ok();
            if allowed {
                Ok(op)
            } else {
                Err((Code::TopicAuthorizationFailed, "the topic may not be changed"))
            }
        };
        asked.iter().map(one).collect::<Vec<Result<Op, (Code, &str)>>>()
    });
    let wanted = wanted.await.unwrap_or_else(|code| vec![Err((code, "nobody leads now")); asked.len()]);
    let ops: Vec<Op> = wanted.iter().flatten().cloned().collect();
    let codes = if only_check { vec![Code::None; ops.len()] } else { topics::each(gateway, who, ops).await };
    let mut codes = codes.into_iter();
    out.i32(0);
    out.list(asked.iter().zip(&wanted), |out, ((name, ..), wanted)| {
        let (code, why) = match wanted {
            Ok(_) => (codes.next().unwrap_or(Code::UnknownServerError), None),
            Err((code, why)) => (*code, Some(*why)),
        };
        out.text(name);
        out.i16(code.number());
        out.maybe_text(why);
        out.tags();
    });
    out.tags();
    Ok(())
}

pub(super) async fn delete_records(
    gateway: &Gateway,
    who: &Who,
    body: &mut Reader,
    out: &mut Writer,
) -> Result<(), Malformed> {
    let asked = body.list(|body| {
        let name = body.text()?;
        let partitions = body.list(|body| {
            let one = (body.i32()?, body.i64()?);
            body.tags()?;
            Ok(one)
        })?;
        body.tags()?;
        Ok((name, partitions))
    })?;
    body.i32()?;
    body.tags()?;
    let each = || asked.iter().flat_map(|(name, partitions)| partitions.iter().map(move |one| (name, *one)));
    let wanted = gateway.read(|machine| {
        let one = |(name, (number, offset)): (&String, (i32, i64))| {
            let stream = stream_of(name).ok_or(Code::InvalidTopicException)?;
            let view = machine.stream(&stream).ok_or(Code::UnknownTopicOrPartition)?;
            let partition = u32::try_from(number).map_err(|_| Code::UnknownTopicOrPartition)?;
            let ends = view.partitions.get(partition as usize).ok_or(Code::UnknownTopicOrPartition)?;
            let before = match offset {
                END => ends.next,
                offset => Offset(u64::try_from(offset).map_err(|_| Code::OffsetOutOfRange)?),
            };
            Ok(Op::Trim { stream, partition, before })
        };
        each().map(one).collect::<Vec<Result<Op, Code>>>()
    });
    let wanted = wanted.await.unwrap_or_else(|code| each().map(|_| Err(code)).collect());
    let ops: Vec<Op> = wanted.iter().flatten().cloned().collect();
    let count = ops.len();
    let codes = if count == 0 {
        Vec::new()
    } else {
        match gateway.commit(who, Commit { mode: Mode::Each, ..Commit::of(ops) }).await {
            Ok(committed) => committed.results.iter().map(code).collect(),
            Err(code) => vec![code; count],
        }
    };
    // What is left begins where it does now: who asked for less than was gone already is told so.
    let first = |op: &Op| match op {
        Op::Trim { stream, partition, .. } => gateway
            .handle
            .allowed(|machine| {
                let view = machine.stream(stream)?;
                view.partitions.get(*partition as usize).map(|ends| ends.first.0 as i64)
            })
            .ok()
            .flatten(),
        _ => None,
    };
    let mut codes = codes.into_iter();
    let mut results = wanted.iter().map(|wanted| match wanted {
        Err(code) => (*code, END),
        Ok(op) => match codes.next().unwrap_or(Code::UnknownServerError) {
            Code::None => (Code::None, first(op).unwrap_or(END)),
            code => (code, END),
        },
    });
    out.i32(0);
    out.list(&asked, |out, (name, partitions)| {
        out.text(name);
        out.list(partitions, |out, (number, _)| {
            let (code, first) = results.next().unwrap_or((Code::UnknownServerError, END));
            out.i32(*number);
            out.i64(first);
            out.i16(code.number());
            out.tags();
        });
        out.tags();
    });
    out.tags();
    Ok(())
}

fn code(result: &OpResult) -> Code {
    if let OpResult::Failed { error } = result { error::op(error) } else { Code::None }
}
