package line

import (
	"io"
	"net"
	"sync"
	"time"
)

// dialWithin bounds the way to a server that is on this machine.
const dialWithin = 5 * time.Second

// A relay passes on between its clients and a server. The proxy stands between
// two: it closes a connection where it should be reset, and connects to no Unix
// socket.
type relay struct {
	address         string // with its port, once it has started
	network, server string

	mu       sync.Mutex
	listener net.Listener              // nil: who comes is refused
	clients  map[*net.TCPConn]net.Conn // their connections to the server; nil: not yet
	work     sync.WaitGroup
}

// duplex is a connection whose directions end one by one.
type duplex interface {
	net.Conn
	CloseWrite() error
}

// start listens, again at the same port where it did before.
func (r *relay) start() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	listener, err := net.Listen("tcp", r.address)
	if err != nil {
		return err
	}
	r.listener, r.address, r.clients = listener, listener.Addr().String(), map[*net.TCPConn]net.Conn{}
	r.work.Go(func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return // stopped
			}
			r.accept(listener, conn.(*net.TCPConn))
		}
	})
	return nil
}

func (r *relay) accept(at net.Listener, client *net.TCPConn) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.listener != at { // stopped since
		reset(client)
		return
	}
	r.clients[client] = nil
	r.work.Go(func() {
		r.serve(client)
		r.mu.Lock()
		defer r.mu.Unlock()
		delete(r.clients, client)
	})
}

func (r *relay) serve(client *net.TCPConn) {
	conn, err := net.DialTimeout(r.network, r.server, dialWithin)
	if err != nil {
		reset(client)
		return
	}
	server := conn.(duplex) // as those of TCP and of Unix sockets are
	if !r.join(client, server) {
		_ = server.Close() // nothing was said
		return
	}
	var both sync.WaitGroup
	both.Go(func() { pass(server, client) })
	both.Go(func() { pass(client, server) })
	both.Wait()
	_, _ = client.Close(), server.Close() // both have ended
}

// join reports whether the client is still there.
func (r *relay) join(client *net.TCPConn, server net.Conn) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	_, there := r.clients[client]
	if there {
		r.clients[client] = server
	}
	return there
}

// pass passes on what comes, and its end. An error ends the other direction too.
func pass(to, from duplex) {
	_, err := io.Copy(to, from)
	if err == nil {
		err = to.CloseWrite()
	}
	if err != nil {
		_, _ = to.Close(), from.Close() // which may have been closed
	}
}

// stop resets every client and refuses whoever comes, until the next start.
func (r *relay) stop() {
	r.mu.Lock()
	if r.listener != nil {
		_ = r.listener.Close() // it listens no longer, whatever it says
		r.listener = nil
	}
	for client, server := range r.clients {
		reset(client)
		if server != nil {
			_ = server.Close() // it may have been closed
		}
	}
	r.clients = nil
	r.mu.Unlock()
	r.work.Wait()
}

// reset has the other end see an error, not an end (tcp(7), SO_LINGER of zero).
func reset(conn *net.TCPConn) {
	_, _ = conn.SetLinger(0), conn.Close() // it may have been closed
}
