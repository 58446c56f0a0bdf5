package webhook

import (
	"bufio"
	"context"
	"crypto/x509"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	standardwebhooks "github.com/standard-webhooks/standard-webhooks/libraries/go"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// newTestClient sends to loopback, which is allowed unless o says what is.
func newTestClient(t *testing.T, o Options, resolver *net.Resolver) *Client {
	t.Helper()
	secrets, err := ParseSecrets(oneSecret + " " + anotherSecret)
	require.NoError(t, err)
	o.Secrets = secrets
	if o.Allow == nil {
		o.Allow = []string{"127.0.0.1"}
	}
	c, err := newClient(o, resolver)
	require.NoError(t, err)
	t.Cleanup(c.Close)
	return c
}

func newServer(t *testing.T, handler http.HandlerFunc) *httptest.Server {
	t.Helper()
	server := httptest.NewServer(handler)
	t.Cleanup(server.Close)
	return server
}

// newRawServer hands each connection to serve, and closes it then.
func newRawServer(t *testing.T, serve func(n int, conn net.Conn, requests *bufio.Reader)) string {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	var serving sync.WaitGroup
	serving.Go(func() {
		for n := 0; ; n++ {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			serving.Go(func() {
				defer func() { _ = conn.Close() }()
				serve(n, conn, bufio.NewReader(conn))
			})
		}
	})
	t.Cleanup(func() {
		_ = listener.Close()
		serving.Wait()
	})
	return "http://" + listener.Addr().String()
}

// takeRequest reads a request to its end.
func takeRequest(requests *bufio.Reader) {
	if r, err := http.ReadRequest(requests); err == nil {
		_, _ = io.Copy(io.Discard, r.Body)
	}
}

// throughName is the URL of a server on loopback, by a name.
func throughName(t *testing.T, server, name string) string {
	t.Helper()
	to, err := url.Parse(server)
	require.NoError(t, err)
	return to.Scheme + "://" + name + ":" + to.Port()
}

func send(t *testing.T, c *Client) error {
	t.Helper()
	return c.Send(t.Context(), "an-id", time.Now(), []byte(`{}`))
}

func TestSend(t *testing.T) {
	t.Parallel()
	at := time.Now()
	body := encoded(t, anEvent())
	type received struct {
		request *http.Request
		body    []byte
	}
	requests := make(chan received, 2)
	server := newServer(t, func(w http.ResponseWriter, r *http.Request) {
		got, _ := io.ReadAll(r.Body)
		requests <- received{r, got}
		w.WriteHeader(http.StatusAccepted)
	})
	c := newTestClient(t, Options{URL: server.URL + "/in?key=1"}, nil)
	for range 2 { // the second one on the connection of the first
		require.NoError(t, c.Send(t.Context(), "an-id", at, body))
	}
	first, second := <-requests, <-requests
	assert.Equal(t, first.request.RemoteAddr, second.request.RemoteAddr)
	assert.Equal(t, http.MethodPost, first.request.Method)
	assert.Equal(t, "/in?key=1", first.request.RequestURI)
	assert.Equal(t, body, first.body)
	header := first.request.Header
	assert.Equal(t, "application/json", header.Get("Content-Type"))
	assert.Equal(t, "tokenalert", header.Get("User-Agent"))
	assert.Equal(t, "an-id", header.Get("webhook-id"))
	assert.Equal(t, fmt.Sprint(at.Unix()), header.Get("webhook-timestamp"))
	assert.Empty(t, header.Values("Idempotency-Key"))
	assert.Empty(t, header.Values("Accept-Encoding"))
	for _, secret := range []string{oneSecret, anotherSecret} {
		verifier, err := standardwebhooks.NewWebhook(secret)
		require.NoError(t, err)
		require.NoError(t, verifier.Verify(first.body, header))
	}
}

func TestAnswers(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		status     int
		retryAfter string
		reason     string
		permanent  bool
		wait       time.Duration
	}{
		{status: 200},
		{status: 204},
		{status: 299},
		{status: 301, reason: "it answered 301: redirects are not followed; TOKENALERT_WEBHOOK_URL is to be where they lead"},
		{status: 400, reason: "it answered 400"},
		{status: 401, reason: "it answered 401"},
		{status: 404, reason: "it answered 404", retryAfter: "7"}, // which counts with 429 and 503 only
		{status: 410, reason: "it answered 410", permanent: true},
		{status: 413, reason: "it answered 413"},
		{status: 429, reason: "it answered 429"},
		{status: 429, reason: "it answered 429", retryAfter: "7", wait: 7 * time.Second},
		{status: 429, reason: "it answered 429", retryAfter: time.Now().Add(48 * time.Hour).UTC().Format(http.TimeFormat), wait: time.Hour},
		{status: 500, reason: "it answered 500"},
		{status: 503, reason: "it answered 503", retryAfter: "86400", wait: time.Hour},
		{status: 599, reason: "it answered 599"},
		{status: 999, reason: "it answered 999"},
	} {
		t.Run(fmt.Sprint(c.status, " ", c.retryAfter), func(t *testing.T) {
			t.Parallel()
			server := newServer(t, func(w http.ResponseWriter, _ *http.Request) {
				if c.retryAfter != "" {
					w.Header().Set("Retry-After", c.retryAfter)
				}
				w.WriteHeader(c.status)
				_, _ = io.WriteString(w, "the answer's text")
			})
			err := send(t, newTestClient(t, Options{URL: server.URL + "/t0ken?key=t0ken"}, nil))
			if c.reason == "" {
				require.NoError(t, err)
				return
			}
			require.EqualError(t, err, "webhook to 127.0.0.1: "+c.reason)
			assert.Equal(t, c.permanent, Permanent(err))
			assert.Equal(t, c.permanent, Permanent(fmt.Errorf("deliver: %w", err)))
			wait, asked := RetryAfter(fmt.Errorf("deliver: %w", err))
			assert.Equal(t, c.wait, wait)
			assert.Equal(t, c.wait > 0, asked)
		})
	}
}

func TestParseRetryAfter(t *testing.T) {
	t.Parallel()
	now := time.Date(2026, 11, 28, 14, 0, 0, 0, time.UTC)
	for value, want := range map[string]time.Duration{
		"":                                 0,
		"0":                                0,
		"1":                                time.Second,
		" 120 ":                            2 * time.Minute,
		"3600":                             time.Hour,
		"3601":                             time.Hour,
		"99999999999999999999999":          time.Hour,
		"-1":                               0,
		"1.5":                              0,
		"soon":                             0,
		"Sat, 28 Nov 2026 14:02:00 GMT":    2 * time.Minute,
		"Saturday, 28-Nov-26 14:02:00 GMT": 2 * time.Minute,
		"Sat Nov 28 14:02:00 2026":         2 * time.Minute,
		"Sat, 28 Nov 2026 13:59:59 GMT":    0,
		"Fri, 31 Dec 9999 23:59:59 GMT":    time.Hour,
		"Mon, 01 Jan 0001 00:00:00 GMT":    0,
	} {
		assert.Equal(t, want, parseRetryAfter(value, now), value)
	}
}

// What a receiver can do instead of answering.
func TestLyingReceivers(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ name, answer, reason string }{
		{"closes", "", "it closed the connection without an answer"},
		{"no HTTP", "SSH-2.0-t0ken\r\n", "its answer cannot be read as HTTP"},
		{"no status", "HTTP/1.1 t0ken\r\n\r\n", "its answer cannot be read as HTTP"},
		{"no header", "HTTP/1.1 200 OK\r\nt0ken\r\n\r\n", "its answer cannot be read as HTTP"},
		{"no length", "HTTP/1.1 200 OK\r\nContent-Length: t0ken\r\n\r\n", "its answer cannot be read as HTTP"},
		{"two lengths", "HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n", "its answer cannot be read as HTTP"},
		{"a header of a megabyte", "HTTP/1.1 200 OK\r\nX: " + strings.Repeat("t0ken", 200_000) + "\r\n\r\n", "its answer cannot be read as HTTP"},
		{"TLS", "\x15\x03\x01\x00\x02\x02\x16", "its answer cannot be read as HTTP"},
		{"cut off", "HTTP/1.1 200", "it closed the connection without an answer"},
		{"another protocol", "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: t0ken\r\n\r\n", "it answered 101"},
		// The status has said it.
		{"longer than its body", "HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\nt0ken", ""},
		{"shorter than its body", "HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\nt0ken", ""},
		{"chunks that are none", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nt0ken", ""},
		{"compressed that is not", "HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nContent-Length: 5\r\n\r\nt0ken", ""},
		{"a failure with a body that is cut off", "HTTP/1.1 500 t0ken\r\nContent-Length: 1000\r\n\r\nt0ken", "it answered 500"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			server := newRawServer(t, func(_ int, conn net.Conn, requests *bufio.Reader) {
				takeRequest(requests)
				_, _ = io.WriteString(conn, c.answer)
			})
			err := send(t, newTestClient(t, Options{URL: server + "/t0ken"}, nil))
			if c.reason == "" {
				require.NoError(t, err)
				return
			}
			require.EqualError(t, err, "webhook to 127.0.0.1: "+c.reason)
			assert.False(t, Permanent(err))
		})
	}
}

func TestEndlessBody(t *testing.T) {
	t.Parallel()
	const most = 256 << 20 // far more than the buffers of two sockets
	written := make(chan int, 1)
	server := newRawServer(t, func(_ int, conn net.Conn, requests *bufio.Reader) {
		takeRequest(requests)
		_, err := io.WriteString(conn, "HTTP/1.1 200 OK\r\n\r\n")
		n, chunk := 0, make([]byte, 64<<10)
		for err == nil && n < most {
			_, err = conn.Write(chunk)
			n += len(chunk)
		}
		written <- n
	})
	require.NoError(t, send(t, newTestClient(t, Options{URL: server, Timeout: time.Minute}, nil)))
	assert.Less(t, <-written, most)
}

func TestSlowReceiver(t *testing.T) {
	t.Parallel()
	arrived := make(chan struct{}, 2)
	server := newServer(t, func(_ http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		arrived <- struct{}{}
		<-r.Context().Done() // which comes when the client has gone
	})
	t.Run("given up", func(t *testing.T) {
		t.Parallel()
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		go func() {
			<-arrived
			cancel()
		}()
		err := newTestClient(t, Options{URL: server.URL, Timeout: time.Hour}, nil).Send(ctx, "an-id", time.Now(), nil)
		require.EqualError(t, err, "webhook to 127.0.0.1: the attempt was given up")
		require.ErrorIs(t, err, context.Canceled)
		assert.False(t, Permanent(err))
	})
	t.Run("timeout", func(t *testing.T) {
		t.Parallel()
		server := newServer(t, func(_ http.ResponseWriter, r *http.Request) {
			_, _ = io.Copy(io.Discard, r.Body)
			<-r.Context().Done()
		})
		err := newTestClient(t, Options{URL: server.URL, Timeout: 50 * time.Millisecond}, nil).Send(t.Context(), "an-id", time.Now(), nil)
		require.EqualError(t, err, "webhook to 127.0.0.1: it did not answer in time")
		require.ErrorIs(t, err, context.DeadlineExceeded)
		assert.False(t, Permanent(err))
	})
}

// A receiver that accepts and is silent keeps no connection either.
func TestSilentReceiver(t *testing.T) {
	t.Parallel()
	closed := make(chan struct{})
	server := newRawServer(t, func(_ int, conn net.Conn, _ *bufio.Reader) {
		_, _ = io.Copy(io.Discard, conn)
		closed <- struct{}{}
	})
	for _, scheme := range []string{"http", "https"} {
		to := strings.Replace(server, "http", scheme, 1)
		err := send(t, newTestClient(t, Options{URL: to, Timeout: 50 * time.Millisecond}, nil))
		require.EqualError(t, err, "webhook to 127.0.0.1: it did not answer in time", scheme)
		<-closed
	}
}

func TestDeadReceiver(t *testing.T) {
	t.Parallel()
	server := httptest.NewServer(http.NotFoundHandler())
	server.Close()
	err := send(t, newTestClient(t, Options{URL: server.URL}, nil))
	require.EqualError(t, err, "webhook to 127.0.0.1: connection refused")
	assert.False(t, Permanent(err))
	_, asked := RetryAfter(err)
	assert.False(t, asked)
}

// A receiver may close an idle connection just when it is used again: what was
// sent into it is sent again at once, and not left to the next attempt.
func TestConnectionClosedWhileIdle(t *testing.T) {
	t.Parallel()
	server := newRawServer(t, func(n int, conn net.Conn, requests *bufio.Reader) {
		takeRequest(requests)
		_, _ = io.WriteString(conn, "HTTP/1.1 204 No Content\r\n\r\n")
		if n == 0 {
			takeRequest(requests) // and no answer
		}
	})
	c := newTestClient(t, Options{URL: server}, nil)
	require.NoError(t, send(t, c))
	require.NoError(t, send(t, c))
}

func TestRedirectIsNotFollowed(t *testing.T) {
	t.Parallel()
	var reached atomic.Int32
	private := newServer(t, func(http.ResponseWriter, *http.Request) { reached.Add(1) })
	for _, status := range []int{301, 302, 303, 307, 308} {
		server := newServer(t, func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, private.URL+"/t0ken", status)
		})
		err := send(t, newTestClient(t, Options{URL: server.URL}, nil))
		require.ErrorContains(t, err, fmt.Sprintf("it answered %d: redirects are not followed", status))
		assert.NotContains(t, err.Error(), "t0ken")
		assert.False(t, Permanent(err))
	}
	assert.Zero(t, reached.Load())
}

func TestNoProxy(t *testing.T) {
	var proxied atomic.Int32
	proxy := newServer(t, func(http.ResponseWriter, *http.Request) { proxied.Add(1) })
	server := newServer(t, func(http.ResponseWriter, *http.Request) {})
	for _, name := range []string{"HTTP_PROXY", "http_proxy", "HTTPS_PROXY", "https_proxy", "ALL_PROXY"} {
		t.Setenv(name, proxy.URL)
	}
	dns := &lies{answers: [][]string{{"127.0.0.1"}}} // net/http uses no proxy for loopback by its address
	c := newTestClient(t, Options{URL: throughName(t, server.URL, "hooks.test"), Allow: []string{"hooks.test"}}, dns.resolver(t))
	require.NoError(t, send(t, c))
	assert.Zero(t, proxied.Load())
}

// The DNS names a server that may be reached, and at the next look-up one that
// may not. Whoever looked up, checked, and then dialled by the name would get there.
func TestDNSThatLies(t *testing.T) {
	t.Parallel()
	var good, bad atomic.Int32
	goodServer := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		good.Add(1)
		w.Header().Set("Connection", "close") // each attempt dials
	}))
	t.Cleanup(goodServer.Close)
	port := goodServer.Listener.Addr().(*net.TCPAddr).Port
	listener, err := net.Listen("tcp", fmt.Sprintf("127.0.0.2:%d", port))
	require.NoError(t, err)
	badServer := httptest.NewUnstartedServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { bad.Add(1) }))
	require.NoError(t, badServer.Listener.Close())
	badServer.Listener = listener
	badServer.StartTLS()
	t.Cleanup(badServer.Close)

	trusted := x509.NewCertPool()
	trusted.AddCert(goodServer.Certificate())
	for _, c := range []struct {
		name    string
		answers [][]string
		fails   []bool
		reason  string
		lasting bool
	}{
		{name: "good, then bad", answers: [][]string{{"127.0.0.1"}, {"127.0.0.2"}}, fails: []bool{false, true, true}, reason: "its address 127.0.0.2 is private or special", lasting: true},
		{name: "bad, then good", answers: [][]string{{"127.0.0.2"}, {"127.0.0.1"}}, fails: []bool{true, false, false}, reason: "its address 127.0.0.2 is private or special", lasting: true},
		{name: "bad and good at once", answers: [][]string{{"127.0.0.2", "127.0.0.1"}}, fails: []bool{false}},
		{name: "good and bad at once", answers: [][]string{{"127.0.0.1", "127.0.0.2"}}, fails: []bool{false}},
		{name: "all bad", answers: [][]string{{"127.0.0.2", "169.254.169.254", "10.0.0.1"}}, fails: []bool{true}, reason: "is private or special", lasting: true},
		{name: "bad, and good that is dead", answers: [][]string{{"127.0.0.2", "127.0.0.3"}}, fails: []bool{true}, reason: "none of its addresses that may be used can be reached"},
		{name: "none", answers: [][]string{{}}, fails: []bool{true}, reason: "the DNS does not know its name"},
	} {
		dns := &lies{answers: c.answers}
		client := newTestClient(t, Options{
			URL:     "https://example.com:" + fmt.Sprint(port), // whose certificate both have
			Allow:   []string{"127.0.0.1", "127.0.0.3", "other.test"},
			RootCAs: trusted,
		}, dns.resolver(t))
		for i, fails := range c.fails {
			before := good.Load()
			err := send(t, client)
			if !fails {
				require.NoError(t, err, c.name)
				assert.Equal(t, before+1, good.Load(), c.name)
				continue
			}
			require.ErrorContains(t, err, c.reason, "%s, attempt %d", c.name, i)
			assert.Equal(t, c.lasting, Permanent(err), c.name)
			assert.Equal(t, before, good.Load(), c.name)
		}
		assert.EqualValues(t, len(c.fails), dns.lookedUp.Load(), c.name)
	}
	assert.Zero(t, bad.Load(), "reached a server that is not allowed")
}

// By its name all of its addresses are allowed, and only its own.
func TestAllowedByName(t *testing.T) {
	t.Parallel()
	server := newServer(t, func(http.ResponseWriter, *http.Request) {})
	for name, passes := range map[string]bool{"hooks.test": true, "HOOKS.test": true, "hooks.test.": true, "other.test": false} {
		secrets, err := ParseSecrets(oneSecret)
		require.NoError(t, err)
		dns := &lies{answers: [][]string{{"127.0.0.1"}}}
		c, err := newClient(Options{URL: throughName(t, server.URL, name), Secrets: secrets, Allow: []string{"Hooks.Test"}}, dns.resolver(t))
		if !passes {
			require.EqualError(t, err, "TOKENALERT_WEBHOOK_URL is http to other.test; it must be https, or TOKENALERT_WEBHOOK_ALLOW must hold that host")
			continue
		}
		require.NoError(t, err)
		require.NoError(t, send(t, c))
		c.Close()
	}
}

func TestCertificates(t *testing.T) {
	t.Parallel()
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {}))
	server.Config.ErrorLog = log.New(io.Discard, "", 0) // it is told why a handshake ended
	server.StartTLS()
	t.Cleanup(server.Close)
	plain := newServer(t, func(http.ResponseWriter, *http.Request) {})
	trusted := x509.NewCertPool()
	trusted.AddCert(server.Certificate()) // of example.com and 127.0.0.1
	for _, c := range []struct {
		name, url string
		roots     *x509.CertPool
		reason    string
	}{
		{"valid, by address", server.URL, trusted, ""},
		{"valid, by name", throughName(t, server.URL, "example.com"), trusted, ""},
		{"of another name", throughName(t, server.URL, "hooks.test"), trusted, "webhook to hooks.test: its certificate is of another name"},
		{"of nobody known", server.URL, nil, "webhook to 127.0.0.1: its certificate is by an authority that is not trusted"},
		{"none", strings.Replace(plain.URL, "http:", "https:", 1), trusted, "webhook to 127.0.0.1: it does not speak TLS"},
	} {
		dns := &lies{answers: [][]string{{"127.0.0.1"}}}
		err := send(t, newTestClient(t, Options{URL: c.url, RootCAs: c.roots}, dns.resolver(t)))
		if c.reason == "" {
			require.NoError(t, err, c.name)
			continue
		}
		require.EqualError(t, err, c.reason, c.name)
		assert.False(t, Permanent(err), c.name)
	}
}

func TestLargeBodyIsNotSent(t *testing.T) {
	t.Parallel()
	var reached atomic.Int32
	server := newServer(t, func(http.ResponseWriter, *http.Request) { reached.Add(1) })
	c := newTestClient(t, Options{URL: server.URL}, nil)
	require.NoError(t, c.Send(t.Context(), "an-id", time.Now(), make([]byte, maxBody)))
	err := c.Send(t.Context(), "an-id", time.Now(), make([]byte, maxBody+1))
	require.EqualError(t, err, "webhook to 127.0.0.1: the body has 20481 bytes and may have 20480")
	assert.True(t, Permanent(err))
	assert.EqualValues(t, 1, reached.Load())
}

func TestNewRefuses(t *testing.T) {
	t.Parallel()
	secrets, err := ParseSecrets(oneSecret)
	require.NoError(t, err)
	for _, c := range []struct {
		url   string
		allow []string
		fault string
	}{
		{"https://hooks.example.com/t0ken", nil, ""},
		{"https://hooks.example.com:8443/t0ken", nil, ""},
		{"https://ana:t0ken@hooks.example.com", nil, ""},
		{"https://93.184.216.34/t0ken", nil, ""},
		{"https://10.1.2.3/t0ken", []string{"10.0.0.0/8"}, ""},
		{"http://10.1.2.3/t0ken", []string{"10.0.0.0/8"}, ""},
		{"http://[fd12::1]:8080/t0ken", []string{"fd12::/48"}, ""},
		{"", nil, "must be a URL"},
		{"hooks.example.com/t0ken", nil, "must be a URL"},
		{"ftp://hooks.example.com/t0ken", nil, "must be a URL"},
		{"https:///t0ken", nil, "must be a URL"},
		{"https:t0ken", nil, "must be a URL"},
		{"https://hooks.example.com/t0ken%zz", nil, "must be a URL"},
		{"https://t0ken:t0ken:t0ken/", nil, "must be a URL"},
		{"https://hooks.example.com:0/t0ken", nil, "has port 0; it must be from 1 to 65535"},
		{"https://hooks.example.com:65536/t0ken", nil, "has port 65536"},
		{"https://bücher.example/t0ken", nil, "must have its host in ASCII"},
		{"http://hooks.example.com/t0ken", nil, "is http to hooks.example.com; it must be https"},
		{"http://93.184.216.34/t0ken", []string{"10.0.0.0/8"}, "it must be https"},
		{"https://10.1.2.3/t0ken", nil, "its address 10.1.2.3 is private or special"},
		{"https://[::ffff:10.1.2.3]/t0ken", nil, "its address 10.1.2.3 is private or special"},
		{"https://[fe80::1%25eth0]/t0ken", nil, "is private or special"},
		{"https://169.254.169.254/t0ken", nil, "is private or special"},
	} {
		client, err := New(Options{URL: c.url, Secrets: secrets, Allow: c.allow})
		if c.fault == "" {
			require.NoError(t, err, c.url)
			client.Close()
			continue
		}
		require.ErrorContains(t, err, c.fault, c.url)
		assert.Contains(t, err.Error(), "TOKENALERT_WEBHOOK_URL", c.url)
		assert.NotContains(t, err.Error(), "t0ken", c.url)
	}
	client, err := New(Options{URL: "https://hooks.example.com", Secrets: secrets})
	require.NoError(t, err)
	assert.Equal(t, 10*time.Second, client.timeout)
	_, err = New(Options{URL: "https://hooks.example.com"})
	require.ErrorContains(t, err, "TOKENALERT_WEBHOOK_SECRET is not given")
}
