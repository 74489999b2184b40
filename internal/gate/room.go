package gate

import (
	"net/netip"
	"slices"
)

// room is a number of places for connections. The gate's lock guards it.
type room struct {
	limit, each int
	conns       map[*Conn]struct{}
	of          map[netip.Addr]int // how many an address has
}

func newRoom(limit int) room {
	return room{limit: limit, each: (limit + 1) / 2, conns: map[*Conn]struct{}{}, of: map[netip.Addr]int{}}
}

// admit gives the connection a place. The victims must leave for it; they are to be removed and
// closed.
func (r *room) admit(c *Conn) (ok bool, victims []*Conn) {
	if !c.trusted && r.of[c.address] >= r.each {
		// It stays within its own share, so that it needn't be asked whether the room is full.
		victims = r.longestIdle(func(other *Conn) bool { return other.address == c.address })
		if len(victims) == 0 {
			return false, nil
		}
	} else if len(r.conns) >= r.limit {
		if victims = r.greediest(); len(victims) == 0 {
			return false, nil
		}
	}
	r.conns[c] = struct{}{}
	r.of[c.address]++
	c.room = r
	return true, victims
}

func (r *room) remove(c *Conn) {
	delete(r.conns, c)
	if r.of[c.address]--; r.of[c.address] == 0 {
		delete(r.of, c.address)
	}
}

// idlers are the connections of an address that are without a request of a known caller.
type idlers struct {
	trusted bool
	n       int
	since   int64 // of the one that is so for longest
}

// before says whether the idlers make room before others do.
func (i *idlers) before(other *idlers) bool {
	switch {
	case i.trusted != other.trusted:
		return !i.trusted
	case i.n != other.n:
		return i.n > other.n
	default:
		return i.since < other.since
	}
}

// greediest returns connections of the address that has the most without a request. Those of
// trusted proxies come last.
func (r *room) greediest() []*Conn {
	all := map[netip.Addr]*idlers{}
	for c := range r.conns {
		since := c.idleSince.Load()
		if since == atWork {
			continue
		}
		if all[c.address] == nil {
			all[c.address] = &idlers{trusted: c.trusted, since: since}
		}
		i := all[c.address]
		i.n++
		i.since = min(i.since, since)
	}

	var first *idlers
	var from netip.Addr
	for address, i := range all {
		if first == nil || i.before(first) {
			first, from = i, address
		}
	}
	if first == nil {
		return nil
	}
	return r.longestIdle(func(c *Conn) bool { return c.address == from })
}

// longestIdle returns those of the connections that have been without a request for longest: a
// hundredth of what an address may have, because each search looks at all connections, and a flood
// of new ones must not cost one each.
func (r *room) longestIdle(of func(*Conn) bool) []*Conn {
	type waiting struct {
		conn  *Conn
		since int64
	}
	var all []waiting
	for c := range r.conns {
		if since := c.idleSince.Load(); since != atWork && of(c) {
			all = append(all, waiting{c, since})
		}
	}
	slices.SortFunc(all, func(a, b waiting) int { return int(a.since - b.since) })
	victims := make([]*Conn, 0, r.each/100+1)
	for _, w := range all {
		if len(victims) == cap(victims) {
			break
		}
		if w.conn.idleSince.CompareAndSwap(w.since, given) { // else a request has come
			victims = append(victims, w.conn)
		}
	}
	return victims
}
