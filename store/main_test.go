package store_test

import (
	"testing"

	"tokenalert/internal/pgtest"
)

func TestMain(m *testing.M) { pgtest.Main(m) }
