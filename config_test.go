package spendflush

import (
	"reflect"
	"testing"
)

func TestEveryNumberOfAConfigHasItsBounds(t *testing.T) {
	ok := Config{Store: newTestStore(), DirectLocker: newTestLocker()}.WithDefaults()
	numbers := map[string]number{}
	for _, of := range ok.numbers() {
		numbers[of.field] = of
	}
	for i := range reflect.TypeFor[Config]().NumField() {
		f := reflect.TypeFor[Config]().Field(i)
		if !f.IsExported() || f.Type.Kind() != reflect.Int && f.Type.Kind() != reflect.Int64 {
			continue
		}
		of, found := numbers[f.Name]
		if !found {
			t.Errorf("%s has no bounds", f.Name)
			continue
		}
		validate := func(n int64) error {
			c := ok
			reflect.ValueOf(&c).Elem().Field(i).SetInt(n)
			return c.Validate()
		}

		for _, n := range []int64{of.bound.Least, of.bound.Most} {
			if err := validate(n); err != nil {
				t.Errorf("%s of %d: %v", f.Name, n, err)
			}
		}
		for _, n := range []int64{-1, of.bound.Least - 1, of.bound.Most + 1} { // the last one is negative where there is no end
			if n == 0 && of.bound.HasZero() {
				continue
			}
			if err := validate(n); err == nil || err.Error() != f.Name+": "+of.bound.Text(n)+"; allowed are "+of.bound.String() {
				t.Errorf("%s of %d: %v", f.Name, n, err)
			}
		}
	}
}
