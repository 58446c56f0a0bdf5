package line_test

import (
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"tokenalert/faults/line"
)

// The test binary is also the program at the worker's end, and one that enters a
// network namespace by itself: see TestMain.
const (
	talkerEnv  = "LINE_TEST_TALK_TO"
	entrantEnv = "LINE_TEST_ENTER"
)

func TestMain(m *testing.M) {
	if address := os.Getenv(talkerEnv); address != "" {
		talk(address)
		return
	}
	if os.Getenv(entrantEnv) != "" {
		enter()
		return
	}
	if err := line.Enter(); err != nil {
		fmt.Fprintln(os.Stderr, "line:", err)
	}
	os.Exit(m.Run())
}

// talk passes on between standard input and output and the address, and says
// how it ended.
func talk(address string) {
	conn, err := net.DialTimeout("tcp", address, 20*time.Second)
	if err != nil {
		fmt.Println("dial:", err)
		return
	}
	fmt.Println("connected")
	go func() { _, _ = io.Copy(conn, os.Stdin) }()
	_, err = io.Copy(os.Stdout, conn)
	fmt.Println("ended:", err)
}

// echo is a server that sends back what it gets.
func echo(t *testing.T) string { return echoing(t, io.Discard) }

// echoing also writes down what it gets.
func echoing(t *testing.T, heard io.Writer) string {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	t.Cleanup(func() { _ = l.Close() })
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			go func() { _, _ = io.Copy(conn, io.TeeReader(conn, heard)) }()
		}
	}()
	return l.Addr().String()
}

// hearWithin bounds the wait for what must come.
const hearWithin = 10 * time.Second

// A talker is the program at the worker's end.
type talker struct {
	t    *testing.T
	in   io.Writer
	said chan string
}

func newTalker(t *testing.T, l *line.Line) *talker {
	host, port := l.Address()
	cmd := l.Command(os.Args[0])
	cmd.Env = append(os.Environ(), talkerEnv+"="+net.JoinHostPort(host, fmt.Sprint(port)))
	in, err := cmd.StdinPipe()
	require.NoError(t, err)
	out, err := cmd.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, cmd.Start())
	tk := &talker{t: t, in: in, said: make(chan string, 100)}
	go func() {
		buffer := make([]byte, 1000)
		for {
			n, err := out.Read(buffer)
			if n > 0 {
				tk.said <- string(buffer[:n])
			}
			if err != nil {
				close(tk.said)
				return
			}
		}
	}()
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	return tk
}

func (tk *talker) say(text string) {
	_, err := io.WriteString(tk.in, text)
	require.NoError(tk.t, err)
}

// hear waits for text, which may come in parts.
func (tk *talker) hear(text string) {
	tk.t.Helper()
	var heard strings.Builder
	timeout := time.After(hearWithin)
	for !strings.Contains(heard.String(), text) {
		select {
		case s, ok := <-tk.said:
			heard.WriteString(s)
			if !ok {
				require.Contains(tk.t, heard.String(), text)
			}
		case <-timeout:
			require.Failf(tk.t, "silence", "%q, not %q", heard.String(), text)
		}
	}
}

func (tk *talker) silent(d time.Duration) {
	tk.t.Helper()
	select {
	case s := <-tk.said:
		require.Failf(tk.t, "not silent", "%q", s)
	case <-time.After(d):
	}
}

func newLine(t *testing.T) *line.Line { return newLineTo(t, echo(t)) }

func newLineTo(t *testing.T, server string) *line.Line {
	l, err := line.New(t.Context(), server)
	require.NoError(t, err)
	t.Cleanup(func() { assert.NoError(t, l.Close()) })
	return l
}

func TestALineLeadsThere(t *testing.T) {
	tk := newTalker(t, newLine(t))
	tk.hear("connected")
	tk.say("hello")
	tk.hear("hello")
}

func TestACutLineResetsAndRefuses(t *testing.T) {
	l := newLine(t)
	tk := newTalker(t, l)
	tk.hear("connected")
	require.NoError(t, l.Cut())
	tk.hear("connection reset by peer")
	newTalker(t, l).hear("refused")
	require.NoError(t, l.Heal())
	again := newTalker(t, l)
	again.hear("connected")
	again.say("hello")
	again.hear("hello")
}

func TestADelayedLineIsLate(t *testing.T) {
	l := newLine(t)
	tk := newTalker(t, l)
	tk.hear("connected")
	require.NoError(t, l.Delay(150*time.Millisecond, 0))
	began := time.Now()
	tk.say("hello")
	tk.hear("hello")
	assert.GreaterOrEqual(t, time.Since(began), 300*time.Millisecond, "both ways")
}

func TestADrippingLineSendsInParts(t *testing.T) {
	l := newLine(t)
	tk := newTalker(t, l)
	tk.hear("connected")
	require.NoError(t, l.Drip(2, 20*time.Millisecond))
	tk.say("hello, world")
	parts := 0
	for heard := ""; heard != "hello, world"; parts++ {
		select {
		case s := <-tk.said:
			heard += s
		case <-time.After(hearWithin):
			require.Failf(t, "silence", "%q", heard)
		}
	}
	assert.Greater(t, parts, 2)
}

// What is on its way when a line heals arrives, and what follows is in time.
func TestAHealedLineGoesOnWithTheSameConnection(t *testing.T) {
	for name, fault := range map[string]func(*line.Line) error{
		"delay": func(l *line.Line) error { return l.Delay(time.Hour, time.Minute) },
		"drip":  func(l *line.Line) error { return l.Drip(2, time.Hour) },
	} {
		t.Run(name, func(t *testing.T) {
			l := newLine(t)
			tk := newTalker(t, l)
			tk.hear("connected")
			require.NoError(t, fault(l))
			tk.say("hello, ")
			tk.say("world")
			require.NoError(t, l.Heal())
			tk.hear("hello, world")
			tk.say("again")
			tk.hear("again")
		})
	}
}

func TestAnotherProxyTakesThePlaceOfOneThatDoesNotAnswer(t *testing.T) {
	l := newLine(t)
	tk := newTalker(t, l)
	tk.hear("connected")
	require.NoError(t, l.Swallow())
	require.NoError(t, l.Renew())
	tk.hear("ended:")
	again := newTalker(t, l)
	again.hear("connected")
	again.say("hello")
	again.hear("hello")
}

func TestWhatIsSwallowedEndsTheConnection(t *testing.T) {
	l := newLine(t)
	tk := newTalker(t, l)
	tk.hear("connected")
	require.NoError(t, l.Swallow())
	tk.say("hello")
	tk.silent(200 * time.Millisecond)
	require.NoError(t, l.Heal())
	tk.hear("ended:")
}

func TestDroppedPacketsAreSilence(t *testing.T) {
	if fault := line.NamespaceFault(); fault != "" {
		l := newLine(t)
		require.ErrorIs(t, l.Drop(false), line.ErrNoNamespace)
		t.Skip(fault)
	}
	for _, oneWay := range []bool{false, true} {
		t.Run(fmt.Sprintf("one way %t", oneWay), func(t *testing.T) {
			heard := make(hearing, 100)
			l := newLineTo(t, echoing(t, heard))
			tk := newTalker(t, l)
			tk.hear("connected")
			tk.say("before")
			tk.hear("before")
			heard.await(t, "before")
			require.NoError(t, l.Drop(oneWay))
			tk.say("hello")
			late := newTalker(t, l)
			if oneWay {
				heard.await(t, "hello")
			}
			tk.silent(500 * time.Millisecond)
			late.silent(500 * time.Millisecond) // it hangs; nothing is refused
			if !oneWay {
				require.Empty(t, heard)
			}
			require.NoError(t, l.Heal())
			tk.hear("hello")
			late.hear("connected")
		})
	}
}

// hearing is a writer that one may wait for.
type hearing chan string

func (h hearing) Write(p []byte) (int, error) {
	h <- string(p)
	return len(p), nil
}

func (h hearing) await(t *testing.T, text string) {
	t.Helper()
	select {
	case s := <-h:
		require.Equal(t, text, s)
	case <-time.After(hearWithin):
		require.Fail(t, "the server hears nothing", "not %q", text)
	}
}

// Signals are meant for the program, not for one that started it.
func TestTheProcessIDIsThePrograms(t *testing.T) {
	cmd := newLine(t).Command("sh", "-c", "echo $$; exec sleep 30")
	pipe, err := cmd.StdoutPipe()
	require.NoError(t, err)
	require.NoError(t, cmd.Start())
	buffer := make([]byte, 20)
	n, err := pipe.Read(buffer)
	require.NoError(t, err)
	assert.Equal(t, fmt.Sprint(cmd.Process.Pid), strings.TrimSpace(string(buffer[:n])))
	require.NoError(t, cmd.Process.Kill())
	require.Error(t, cmd.Wait())
}
