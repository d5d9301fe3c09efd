package webhook_test

import (
	"testing"

	"github.com/go-logr/logr"
	ctrllog "sigs.k8s.io/controller-runtime/pkg/log"

	"github.com/berth-dev/berth/internal/testkit"
)

func TestMain(m *testing.M) {
	ctrllog.SetLogger(logr.Discard())
	testkit.Main(m)
}
