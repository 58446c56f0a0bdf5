package email

import (
	"bufio"
	"errors"
	"io"
	"net"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"tokenalert/internal/mailserver"
)

// startSite runs a server until the test ends, and returns how it is reached.
func startSite(t *testing.T, c mailserver.Conduct) (Server, *mailserver.Server) {
	t.Helper()
	c.User, c.Password = rightUser, rightPassword
	m := mailserver.Start(t, c)
	ways := map[mailserver.TLS]TLS{mailserver.StartTLS: StartTLS, mailserver.Implicit: Implicit, mailserver.None: None}
	return Server{Host: m.Host, Port: m.Port, From: sampleFrom, TLS: ways[c.TLS], RootCAs: m.Pool}, m
}

const (
	rightUser     = "ana@platform.example"
	rightPassword = "hunter2 ñ:%"
)

// script is a server that plays one conversation with each connection, for
// what a server that keeps to the protocol does not do. It speaks no TLS.
func script(t *testing.T, play func(*line)) Server {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		for {
			conn, err := listener.Accept()
			if errors.Is(err, net.ErrClosed) {
				return
			}
			if err == nil {
				play(&line{conn, bufio.NewReader(conn)})
				_ = conn.Close()
			}
		}
	}()
	t.Cleanup(func() {
		_ = listener.Close()
		<-ended
	})
	return Server{Host: "127.0.0.1", Port: listener.Addr().(*net.TCPAddr).Port, From: sampleFrom, TLS: None}
}

type line struct {
	net.Conn
	in *bufio.Reader
}

func (l *line) say(text string) { _, _ = io.WriteString(l, text+"\r\n") }

// endlessly says something again and again, until nobody listens.
func (l *line) endlessly(first, again string) {
	_, err := io.WriteString(l, first)
	for again = strings.Repeat(again, 1000); err == nil; {
		_, err = io.WriteString(l, again)
	}
}

// hear waits for a command, and returns it or the empty string at the end.
func (l *line) hear() string {
	command, _ := l.in.ReadString('\n')
	return strings.TrimSpace(command)
}

// until answers every command as if all were well, up to the one that begins
// with last, which it leaves unanswered.
func (l *line) until(last string) {
	l.say("220 mail.example")
	for {
		command := l.hear()
		switch {
		case command == "", strings.HasPrefix(command, last):
			return
		case command == "DATA":
			l.say("354 go on")
		default:
			l.say("250 2.0.0 fine")
		}
	}
}

// message reads what follows DATA, octet for octet, up to the final dot.
func (l *line) message() string {
	var raw strings.Builder
	for !strings.HasSuffix(raw.String(), "\r\n.\r\n") {
		b, err := l.in.ReadByte()
		if err != nil {
			break
		}
		raw.WriteByte(b)
	}
	return raw.String()
}
