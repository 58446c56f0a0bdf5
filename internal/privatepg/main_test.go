package privatepg

import (
	"context"
	"fmt"
	"os"
	"testing"

	"go.uber.org/goleak"
)

// holdEnv makes the test binary start a server and hold it until it is killed.
const holdEnv = "PRIVATEPG_TEST_HOLD"

func TestMain(m *testing.M) {
	if os.Getenv(holdEnv) != "" {
		hold()
	}
	goleak.VerifyTestMain(m)
}

// hold prints the server's directory and process id, and never returns.
func hold() {
	s, err := Start(context.Background(), Options{})
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	fmt.Println(s.dir.path, s.Pid())
	select {}
}
