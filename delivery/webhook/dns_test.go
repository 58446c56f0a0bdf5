package webhook

import (
	"context"
	"encoding/binary"
	"io"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"testing"
)

// lies is a DNS whose nth answer for any name is the nth list of addresses; the
// last one stays.
type lies struct {
	answers  [][]string
	lookedUp atomic.Int32
}

func (l *lies) resolver(t *testing.T) *net.Resolver {
	t.Helper()
	var serving sync.WaitGroup
	t.Cleanup(serving.Wait)
	return &net.Resolver{PreferGo: true, Dial: func(context.Context, string, string) (net.Conn, error) {
		ours, theirs := net.Pipe() // no net.PacketConn, so it is spoken to as over TCP
		serving.Go(func() {
			defer func() { _ = ours.Close() }()
			for l.answer(ours) {
			}
		})
		return theirs, nil
	}}
}

// answer serves one question (RFC 1035, section 4): its header and question
// again, and an A record for each address. There are no others.
func (l *lies) answer(conn net.Conn) bool {
	var size [2]byte
	if _, err := io.ReadFull(conn, size[:]); err != nil {
		return false
	}
	query := make([]byte, binary.BigEndian.Uint16(size[:]))
	if _, err := io.ReadFull(conn, query); err != nil {
		return false
	}
	end := 12
	for query[end] != 0 {
		end += int(query[end]) + 1
	}
	end += 5 // the root, type and class
	var addresses []string
	if kind := binary.BigEndian.Uint16(query[end-4:]); kind == 1 {
		n := int(l.lookedUp.Add(1)) - 1
		addresses = l.answers[min(n, len(l.answers)-1)]
	}
	reply := append([]byte{query[0], query[1], 0x81, 0x80, 0, 1, 0, byte(len(addresses)), 0, 0, 0, 0}, query[12:end]...)
	for _, address := range addresses {
		four := netip.MustParseAddr(address).As4()
		reply = append(reply, 0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 0, 0, 4)
		reply = append(reply, four[:]...)
	}
	_, err := conn.Write(append(binary.BigEndian.AppendUint16(nil, uint16(len(reply))), reply...))
	return err == nil
}
