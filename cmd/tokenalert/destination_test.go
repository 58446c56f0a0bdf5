package main

import (
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"io"
	"log"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	standardwebhooks "github.com/standard-webhooks/standard-webhooks/libraries/go"
	"github.com/stretchr/testify/require"

	"tokenalert/delivery/webhook"
	"tokenalert/internal/mailserver"
)

var hookSecret = "whsec_" + base64.StdEncoding.EncodeToString([]byte(strings.Repeat("k", 32)))

// destination is where alerts are delivered to: a mail server and a receiver of
// webhooks, whose certificates a process trusts by SSL_CERT_FILE.
type destination struct {
	t           *testing.T
	mail        *mailserver.Server
	answers     atomic.Int32 // the status that the receiver answers
	certificate string       // the file of both certificates

	hookURL string
	mu      sync.Mutex
	got     []webhook.Event
}

func newDestination(t *testing.T, c mailserver.Conduct) *destination {
	t.Helper()
	c.Mechanisms, c.User, c.Password = []string{"PLAIN"}, "robot", secret
	d := &destination{t: t, mail: mailserver.Start(t, c), certificate: filepath.Join(t.TempDir(), "certificates.pem")}
	d.answers.Store(http.StatusNoContent)
	server := httptest.NewUnstartedServer(http.HandlerFunc(d.receive))
	server.Config.ErrorLog = log.New(io.Discard, "", 0)
	server.StartTLS()
	t.Cleanup(server.Close)
	d.hookURL = server.URL + "/hooks/" + secret
	both := append(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: server.Certificate().Raw}), d.mail.PEM...)
	require.NoError(t, os.WriteFile(d.certificate, both, 0o600))
	return d
}

// receive takes what is signed and nothing else.
func (d *destination) receive(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(r.Body)
	verifier, secretErr := standardwebhooks.NewWebhook(hookSecret)
	var event struct {
		webhook.Event
		Data struct {
			webhook.Alert
			PercentUsed float64 `json:"percent_used"`
		} `json:"data"`
	}
	if err != nil || secretErr != nil || verifier.Verify(body, r.Header) != nil || json.Unmarshal(body, &event) != nil {
		w.WriteHeader(http.StatusUnauthorized)
		return
	}
	event.Event.Data = event.Data.Alert
	d.mu.Lock()
	d.got = append(d.got, event.Event)
	d.mu.Unlock()
	w.WriteHeader(int(d.answers.Load()))
}

func (d *destination) events() []webhook.Event {
	d.mu.Lock()
	defer d.mu.Unlock()
	return append([]webhook.Event(nil), d.got...)
}

// byEmail and byWebhook are what a process needs to deliver.
func (d *destination) byEmail() []string {
	return []string{
		"SSL_CERT_FILE=" + d.certificate, "TOKENALERT_EMAIL=on", "TOKENALERT_EMAIL_FROM=Alerts <alerts@platform.example>",
		"TOKENALERT_SMTP_URL=smtp://robot:" + secret + "@" + d.mail.Address(), "TOKENALERT_SITE_URL=https://platform.example",
	}
}

func (d *destination) byWebhook() []string {
	return []string{
		"SSL_CERT_FILE=" + d.certificate, "TOKENALERT_WEBHOOK_URL=" + d.hookURL, "TOKENALERT_WEBHOOK_SECRET=" + hookSecret,
		"TOKENALERT_WEBHOOK_ALLOW=127.0.0.1",
	}
}
