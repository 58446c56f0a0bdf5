package webhook_test

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"time"

	standardwebhooks "github.com/standard-webhooks/standard-webhooks/libraries/go"

	"tokenalert/delivery/webhook"
)

// receive handles alerts; once does the work of an id that it has not seen, and
// nothing for one that it has.
func receive(verifier *standardwebhooks.Webhook, once func(id string, body []byte) error) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, 20<<10))
		if err != nil || verifier.Verify(body, r.Header) != nil {
			http.Error(w, "not verified", http.StatusUnauthorized)
			return
		}
		if err := once(r.Header.Get("webhook-id"), body); err != nil {
			http.Error(w, "try again", http.StatusServiceUnavailable)
			return
		}
		w.WriteHeader(http.StatusNoContent)
	}
}

// An event is sent twice, as after an answer that was lost, and once by somebody
// who does not have the secret.
func Example() {
	const secret = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"
	verifier, err := standardwebhooks.NewWebhook(secret)
	if err != nil {
		fmt.Println(err)
		return
	}
	seen := map[string]bool{}
	server := httptest.NewServer(receive(verifier, func(id string, body []byte) error {
		if seen[id] {
			fmt.Println("seen before")
			return nil
		}
		var event struct {
			Data struct {
				Threshold   int
				PercentUsed float64 `json:"percent_used"`
			}
		}
		if err := json.Unmarshal(body, &event); err != nil {
			return err
		}
		fmt.Println("alert of", event.Data.Threshold, "% at", event.Data.PercentUsed)
		seen[id] = true
		return nil
	}))
	defer server.Close()

	body, err := json.Marshal(webhook.NewEvent(time.Now(), webhook.Alert{Threshold: 80, PercentUsed: 805}))
	if err != nil {
		fmt.Println(err)
		return
	}
	for _, signed := range []string{secret, secret, "whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD"} {
		secrets, err := webhook.ParseSecrets(signed)
		if err != nil {
			fmt.Println(err)
			return
		}
		client, err := webhook.New(webhook.Options{URL: server.URL, Secrets: secrets, Allow: []string{"127.0.0.1"}})
		if err != nil {
			fmt.Println(err)
			return
		}
		fmt.Println(client.Send(context.Background(), "6f2c1f0e-6f5b-5d0a-9c53-0f7a4b1f5a11", time.Now(), body))
		client.Close()
	}
	// Output:
	// alert of 80 % at 80.5
	// <nil>
	// seen before
	// <nil>
	// webhook to 127.0.0.1: it answered 401
}
