package s3_test

import (
	"testing"

	"github.com/berth-dev/berth/internal/testkit"
)

func TestMain(m *testing.M) { testkit.Main(m) }
