//! Values at numbered places, in chunks: growing never copies what is there, nor holds anybody up for it.
//!
//! Called by: `rows`, `bodies`.

const CHUNK: usize = 1024;

/// See the module's documentation.
pub(crate) struct Slab<T> {
    chunks: Vec<Vec<Option<T>>>,
}

impl<T> Default for Slab<T> {
    fn default() -> Self {
        Self { chunks: Vec::new() }
    }
}

impl<T> Slab<T> {
    /// What lies at a place, if anything does.
    pub(crate) fn get(&self, place: u32) -> Option<&T> {
        self.chunks.get(place as usize / CHUNK)?.get(place as usize % CHUNK)?.as_ref()
    }

    pub(crate) fn get_mut(&mut self, place: u32) -> Option<&mut T> {
        self.chunks.get_mut(place as usize / CHUNK)?.get_mut(place as usize % CHUNK)?.as_mut()
    }

    /// Puts a value at a place, however far it is.
    pub(crate) fn put(&mut self, place: u32, value: T) {
        let (chunk, at) = (place as usize / CHUNK, place as usize % CHUNK);
        if self.chunks.len() <= chunk {
            self.chunks.resize_with(chunk + 1, Vec::new);
        }
        let places = &mut self.chunks[chunk];
        if places.len() <= at {
            places.reserve_exact(CHUNK - places.len());
            places.resize_with(at + 1, || None);
        }
        places[at] = Some(value);
    }

    /// Takes away what lies at a place.
    pub(crate) fn take(&mut self, place: u32) -> Option<T> {
        self.chunks.get_mut(place as usize / CHUNK)?.get_mut(place as usize % CHUNK)?.take()
    }

    /// One more than the last place that was ever used.
    pub(crate) fn end(&self) -> u32 {
        let (full, last) = (self.chunks.len().saturating_sub(1), self.chunks.last().map_or(0, Vec::len));
        u32::try_from(full * CHUNK + last).expect("memory ends long before 2^32 places")
    }

    /// All that is there, by place.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (u32, &T)> {
        // A chunk may be shorter than its room, or have none yet.
        let chunks = (0u32..).step_by(CHUNK).zip(&self.chunks);
        let all = chunks.flat_map(|(first, chunk)| (first..).zip(chunk));
        all.filter_map(|(place, value)| Some((place, value.as_ref()?)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn values_stay_where_they_were_put() {
        let mut slab = Slab::default();
        assert_eq!((slab.end(), slab.take(5), slab.get(0)), (0, None, None));
        for place in [0, 1, 1023, 1024, 5000] {
            slab.put(place, place);
        }
        assert_eq!(slab.end(), 5001);
        assert_eq!(
            slab.iter().collect::<Vec<_>>(),
            [(0, &0), (1, &1), (1023, &1023), (1024, &1024), (5000, &5000)]
        );
        *slab.get_mut(1024).expect("it was put there") = 7;
        assert_eq!(
            (slab.take(1024), slab.get(1024), slab.get(1025), slab.get(u32::MAX)),
            (Some(7), None, None, None)
        );
        assert_eq!(slab.end(), 5001);
    }
}
