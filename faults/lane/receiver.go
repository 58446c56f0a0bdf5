package lane

import (
	"bytes"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/mail"
	"strings"
	"sync"
	"time"

	"github.com/emersion/go-smtp"
	"github.com/google/uuid"

	"tokenalert/faults/line"
	"tokenalert/faults/oracle"
	"tokenalert/faults/plan"
)

// A receiver takes alerts in by one channel, and fails as it is told to.
type receiver struct {
	channel string
	serve   func(net.Listener) io.Closer // which ends all connections

	mu      sync.Mutex
	address string // of all, with its port
	server  io.Closer
	fault   plan.FaultKind // none: empty
	value   int
	met     int // attempts that have met the fault
	got     []receipt
}

// A receipt is a message that arrived.
type receipt struct {
	oracle.Receipt
	slot     int // whose worker sent it
	from, to time.Time
}

func newReceiver(channel string) (*receiver, error) {
	r := &receiver{channel: channel, address: "0.0.0.0:0"} // each worker comes by a way of its own
	if line.NamespaceFault() != "" {
		r.address = "127.0.0.1:0"
	}
	r.serve = r.serveWebhooks
	if channel == plan.Email {
		r.serve = r.serveMail
	}
	return r, r.up()
}

// up listens, again at the same port where it did before.
func (r *receiver) up() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	listener, err := net.Listen("tcp4", r.address)
	if err != nil {
		return err
	}
	r.address, r.server = listener.Addr().String(), r.serve(listener)
	return nil
}

func (r *receiver) down() {
	r.mu.Lock()
	server := r.server
	r.server = nil
	r.mu.Unlock()
	if server != nil {
		_ = server.Close() // whatever it says, it listens no longer
	}
}

func (r *receiver) port() string {
	r.mu.Lock()
	defer r.mu.Unlock()
	_, port, err := net.SplitHostPort(r.address)
	if err != nil {
		panic(err) // it was made by net
	}
	return port
}

// fail has whatever comes from now on meet the fault.
func (r *receiver) fail(kind plan.FaultKind, value int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.fault, r.value, r.met = kind, value, 0
}

// mend ends the fault, and reports whether any attempt has met it.
func (r *receiver) mend() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.fault = ""
	return r.met > 0
}

// meet is the fault that an attempt comes upon.
func (r *receiver) meet() (plan.FaultKind, int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.fault != "" {
		r.met++
	}
	return r.fault, r.value
}

// take notes what has been read, before the answer is given.
func (r *receiver) take(got receipt, fault plan.FaultKind, value int) {
	if fault == plan.Slow {
		time.Sleep(time.Duration(100+value) * time.Millisecond)
	}
	got.Channel, got.to = r.channel, time.Now()
	got.Accepted = fault != plan.Refuse && fault != plan.LoseAnswer
	r.mu.Lock()
	defer r.mu.Unlock()
	r.got = append(r.got, got)
}

func (r *receiver) receipts() []receipt {
	r.mu.Lock()
	defer r.mu.Unlock()
	return append([]receipt(nil), r.got...)
}

// quiet is for servers whose complaints are our own doing.
var quiet = log.New(io.Discard, "", 0)

func (r *receiver) serveWebhooks(listener net.Listener) io.Closer {
	server := &http.Server{Handler: http.HandlerFunc(r.serveWebhook), ErrorLog: quiet, ReadHeaderTimeout: time.Minute}
	go func() { _ = server.Serve(listener) }() // until it is closed
	return server
}

// webhookKey signs what workers post.
var webhookKey = bytes.Repeat([]byte("laboratory"), 4)

// transient are the statuses of a receiver that may be well later.
var transient = []int{http.StatusInternalServerError, http.StatusBadGateway, http.StatusServiceUnavailable, http.StatusTooManyRequests}

func (r *receiver) serveWebhook(w http.ResponseWriter, request *http.Request) {
	got := receipt{from: time.Now()}
	fault, value := r.meet()
	if fault == plan.HangUp {
		panic(http.ErrAbortHandler)
	}
	body, err := io.ReadAll(request.Body)
	if err != nil {
		return // whoever sent it is gone
	}
	var event struct {
		Data struct {
			AlertID uuid.UUID `json:"alert_id"`
			UserID  uuid.UUID `json:"user_id"`
		} `json:"data"`
	}
	if err := json.Unmarshal(body, &event); err != nil {
		got.Fault = "its body is no event: " + err.Error()
	}
	got.Key, got.Alert, got.User = request.Header.Get("webhook-id"), event.Data.AlertID, event.Data.UserID
	if _, err := fmt.Sscanf(request.URL.Path, "/w%d", &got.slot); err != nil {
		got.Fault = "it came to another path"
	}
	mac := hmac.New(sha256.New, webhookKey)
	_, _ = fmt.Fprintf(mac, "%s.%s.%s", got.Key, request.Header.Get("webhook-timestamp"), body) // never fails
	if request.Header.Get("webhook-signature") != "v1,"+base64.StdEncoding.EncodeToString(mac.Sum(nil)) {
		got.Fault = "it is not signed"
	}
	r.take(got, fault, value)
	switch fault {
	case plan.Refuse:
		w.WriteHeader(transient[value%len(transient)])
	case plan.LoseAnswer:
		panic(http.ErrAbortHandler)
	default:
		w.WriteHeader(http.StatusNoContent)
	}
}

func (r *receiver) serveMail(listener net.Listener) io.Closer {
	server := smtp.NewServer(smtp.BackendFunc(func(c *smtp.Conn) (smtp.Session, error) {
		fault, value := r.meet()
		if fault == plan.HangUp {
			_ = c.Conn().Close() // that is the fault
			return nil, errHungUp
		}
		return &mailSession{receiver: r, conn: c, fault: fault, value: value}, nil
	}))
	server.Domain, server.ErrorLog = "laboratory.example.org", quiet
	go func() { _ = server.Serve(listener) }() // until it is closed
	return server
}

var errHungUp = errors.New("hung up")

// A mailSession is one connection's.
type mailSession struct {
	*receiver
	conn  *smtp.Conn
	fault plan.FaultKind
	value int
	got   receipt
}

func (s *mailSession) Reset()        { s.got = receipt{} }
func (s *mailSession) Logout() error { return nil }

// Mail hears from whom: a worker's number is in its address.
func (s *mailSession) Mail(from string, _ *smtp.MailOptions) error {
	s.got = receipt{from: time.Now()}
	if _, err := fmt.Sscanf(from, "w%d@", &s.got.slot); err != nil {
		s.got.Fault = "it came from another address"
	}
	return nil
}

// Rcpt hears to whom: users of the laboratory have their id in their address.
func (s *mailSession) Rcpt(to string, _ *smtp.RcptOptions) error {
	id, _, _ := strings.Cut(to, "@")
	var err error
	if s.got.User, err = uuid.Parse(id); err != nil {
		s.got.Fault = "it went to an address that nobody has"
	}
	return nil
}

func (s *mailSession) Data(r io.Reader) error {
	text, err := io.ReadAll(r)
	if err != nil {
		return err
	}
	got := s.got
	if m, err := mail.ReadMessage(bytes.NewReader(text)); err != nil {
		got.Fault = "it is no message: " + err.Error()
	} else {
		got.Key, _, _ = strings.Cut(strings.Trim(m.Header.Get("Message-ID"), "<>"), "@")
	}
	if got.Alert, err = uuid.Parse(got.Key); err != nil {
		got.Fault = "its Message-ID is of no alert"
	}
	s.take(got, s.fault, s.value)
	switch s.fault {
	case plan.Refuse:
		return &smtp.SMTPError{Code: 451, EnhancedCode: smtp.EnhancedCode{4, 3, 0}, Message: "Try again later"}
	case plan.LoseAnswer:
		_ = s.conn.Conn().Close() // that is the fault
		return errHungUp
	}
	return nil
}
