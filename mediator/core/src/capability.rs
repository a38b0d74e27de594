//! A tenant's handle table: capabilities, and the tree that says who came from whom.
//!
//! The table is private to its tenant, so another tenant's handle finds a slot that is not its own
//! or none at all. A slot's generation moves on when it is reused; a slot whose generation would
//! wrap is retired. A closed slot keeps a *tombstone*, the status its handle answers with, until it
//! is reused.

use turnstile_abi::op::Need;
use turnstile_abi::{Handle, Kind, Rights, Status};

use crate::object::ObjKey;

/// Index of a live slot.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct CapIndex(u32);

/// A live capability.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Cap {
    pub(crate) kind: Kind,
    pub(crate) rights: Rights,
    pub(crate) object: ObjKey,
    /// Whether closing it ends the object (it was not derived).
    pub(crate) root: bool,
}

/// What resolving looks at, and nothing else: 16 bytes, four to a cache line.
#[derive(Debug)]
struct Slot {
    generation: u32,
    state: State,
}

#[derive(Debug)]
enum State {
    Live(Cap),
    /// Closed; the handle answers with this status while the slot is not reused.
    Closed(Status),
}

/// The tree, as indices: a slot knows its parent, first child and siblings.
#[derive(Clone, Copy, Debug, Default)]
struct Links {
    parent: Option<u32>,
    child: Option<u32>,
    next: Option<u32>,
    previous: Option<u32>,
}

/// The table.
#[derive(Debug, Default)]
pub(crate) struct CapTable {
    slots: Vec<Slot>,
    /// The tree's part of each slot; of no meaning while the slot is closed.
    links: Vec<Links>,
    free: Vec<u32>,
    live: u32,
}

impl CapTable {
    /// Live capabilities.
    pub(crate) fn len(&self) -> u32 {
        self.live
    }

    /// Mints a capability under `parent`. `None`: the table is full (2^24 slots).
    pub(crate) fn insert(
        &mut self,
        cap: Cap,
        parent: Option<CapIndex>,
    ) -> Option<(CapIndex, Handle)> {
        let index = match self.free.pop() {
            Some(index) => index,
            None if self.slots.len() > Handle::MAX_INDEX as usize => return None,
            None => {
                self.slots.push(Slot { generation: 0, state: State::Closed(Status::BadHandle) });
                self.links.push(Links::default());
                self.slots.len() as u32 - 1
            }
        };
        let mut links = Links { parent: parent.map(|p| p.0), ..Links::default() };
        if let Some(CapIndex(parent)) = parent
            && let Some(up) = self.links_mut(parent)
        {
            links.next = up.child.replace(index);
            if let Some(next) = links.next
                && let Some(sibling) = self.links_mut(next)
            {
                sibling.previous = Some(index);
            }
        }
        let slot = &mut self.slots[index as usize];
        // Generation 0 is never minted, so the null handle resolves to nothing.
        slot.generation += 1;
        slot.state = State::Live(cap);
        self.links[index as usize] = links;
        self.live += 1;
        Some((CapIndex(index), Handle::new(cap.kind, index, slot.generation)))
    }

    /// Resolves a handle: right table, generation, kind, rights. The error is the status to report.
    pub(crate) fn resolve(&self, handle: Handle, need: Need) -> Result<(CapIndex, &Cap), Status> {
        let slot = self.slots.get(handle.index() as usize).ok_or(Status::BadHandle)?;
        if slot.generation != handle.generation() || slot.generation == 0 {
            return Err(Status::BadHandle);
        }
        match &slot.state {
            State::Closed(status) => Err(*status),
            State::Live(cap) => {
                if handle.kind() != Some(cap.kind) || !need.kinds.contains(cap.kind.set()) {
                    Err(Status::BadHandle)
                } else if !cap.rights.contains(need.rights) {
                    Err(Status::NoRight)
                } else {
                    Ok((CapIndex(handle.index()), cap))
                }
            }
        }
    }

    /// Closes a capability and everything derived from it or created through it, children before
    /// parents. `closed` sees each one; its handle answers with `tombstone` from now on.
    pub(crate) fn close(&mut self, top: CapIndex, tombstone: Status, mut closed: impl FnMut(Cap)) {
        let Some(links) = self.links(top.0) else { return };
        self.unlink(top.0, links);
        let mut at = top.0;
        loop {
            // Down to a leaf.
            while let Some(child) = self.links(at).and_then(|l| l.child) {
                at = child;
            }
            let Some(links) = self.links(at) else { return };
            let slot = &mut self.slots[at as usize];
            if let State::Live(cap) = std::mem::replace(&mut slot.state, State::Closed(tombstone)) {
                closed(cap);
            }
            self.live -= 1;
            if slot.generation < u32::MAX {
                self.free.push(at);
            }
            if at == top.0 {
                return;
            }
            // The parent's child list loses its head; go on with the next sibling or the parent.
            let Some(parent) = links.parent else { return };
            if let Some(up) = self.links_mut(parent) {
                up.child = links.next;
            }
            at = parent;
        }
    }

    /// A live capability.
    pub(crate) fn get(&self, index: CapIndex) -> Option<&Cap> {
        match &self.slots.get(index.0 as usize)?.state {
            State::Live(cap) => Some(cap),
            State::Closed(_) => None,
        }
    }

    /// Whether [`insert`](Self::insert) would fail.
    pub(crate) fn is_full(&self) -> bool {
        self.free.is_empty() && self.slots.len() > Handle::MAX_INDEX as usize
    }

    fn links(&self, index: u32) -> Option<Links> {
        self.get(CapIndex(index))?;
        self.links.get(index as usize).copied()
    }

    fn links_mut(&mut self, index: u32) -> Option<&mut Links> {
        self.get(CapIndex(index))?;
        self.links.get_mut(index as usize)
    }

    fn unlink(&mut self, index: u32, links: Links) {
        if let Some(previous) = links.previous.and_then(|p| self.links_mut(p)) {
            previous.next = links.next;
        } else if let Some(parent) = links.parent.and_then(|p| self.links_mut(p))
            && parent.child == Some(index)
        {
            parent.child = links.next;
        }
        if let Some(next) = links.next.and_then(|n| self.links_mut(n)) {
            next.previous = links.previous;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use slotmap::KeyData;
    use turnstile_abi::KindSet;

    const ANY: Need = Need { kinds: KindSet::BUFFER, rights: Rights::READ };

    fn cap(n: u64) -> Cap {
        Cap {
            kind: Kind::Buffer,
            rights: Rights::READ | Rights::WRITE,
            object: KeyData::from_ffi(n).into(),
            root: true,
        }
    }

    #[test]
    fn closing_a_parent_closes_descendants_children_first() {
        let mut t = CapTable::default();
        let a = t.insert(cap(1), None).unwrap().1;
        let at = |t: &CapTable, h| t.resolve(h, ANY).unwrap().0;
        let b = t.insert(cap(2), Some(at(&t, a))).unwrap().1;
        let c = t.insert(cap(3), Some(at(&t, b))).unwrap().1;
        let d = t.insert(cap(4), Some(at(&t, a))).unwrap().1;
        let e = t.insert(cap(5), None).unwrap().1;
        let mut order = Vec::new();
        t.close(at(&t, b), Status::Revoked, |c| order.push(c));
        assert_eq!(order, [cap(3), cap(2)]);
        assert_eq!(t.resolve(c, ANY).unwrap_err(), Status::Revoked);
        assert!(t.resolve(d, ANY).is_ok());
        t.close(at(&t, a), Status::BadHandle, |_| ());
        assert!(t.resolve(d, ANY).is_err());
        assert!(t.resolve(e, ANY).is_ok());
        assert_eq!(t.len(), 1);
    }

    #[test]
    fn a_slot_is_small() {
        assert_eq!(size_of::<Slot>(), 16);
    }

    #[test]
    fn a_stale_handle_never_resolves() {
        let mut t = CapTable::default();
        let old = t.insert(cap(1), None).unwrap().1;
        let index = t.resolve(old, ANY).unwrap().0;
        t.close(index, Status::Revoked, |_| ());
        let new = t.insert(cap(2), None).unwrap().1;
        assert_eq!(new.index(), old.index());
        assert_eq!(t.resolve(old, ANY).unwrap_err(), Status::BadHandle);
        assert!(t.resolve(new, ANY).is_ok());
    }

    #[test]
    fn kind_and_rights_are_checked() {
        let mut t = CapTable::default();
        let h = t.insert(cap(1), None).unwrap().1;
        let need = |kinds, rights| Need { kinds, rights };
        assert_eq!(
            t.resolve(h, need(KindSet::FENCE, Rights::READ)).unwrap_err(),
            Status::BadHandle
        );
        assert_eq!(
            t.resolve(h, need(KindSet::BUFFER, Rights::LAUNCH)).unwrap_err(),
            Status::NoRight
        );
        let lies = Handle::new(Kind::Fence, h.index(), h.generation());
        let either = need(KindSet::all(), Rights::READ);
        assert_eq!(t.resolve(lies, either).unwrap_err(), Status::BadHandle);
        assert_eq!(t.resolve(Handle::NULL, either).unwrap_err(), Status::BadHandle);
    }

    #[test]
    fn a_slot_whose_generation_is_spent_is_retired() {
        let mut t = CapTable::default();
        let h = t.insert(cap(1), None).unwrap().1;
        t.slots[0].generation = u32::MAX;
        let h = Handle::new(Kind::Buffer, h.index(), u32::MAX);
        let index = t.resolve(h, ANY).unwrap().0;
        t.close(index, Status::BadHandle, |_| ());
        assert_eq!(t.insert(cap(2), None).unwrap().1.index(), 1);
    }
}
