/* The two inner loops of a relayed stream: sizes off a read's chunks, and its events counted.

   `scan.py` beside this file says the same in Python and is what the tests compare this with: it is
   the law, this is its speed. Both functions are pure, answer for the plain case only and say so
   when a read is not plain; then the caller walks it. Nothing is kept between calls.
   Every index is checked against the read's end before it is used. */
#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <string.h>

#define SIZE_DIGITS_MAX 7 /* of a plain size line; more means the caller's walk */

static int hex_value(unsigned char c) {
  if (c >= '0' && c <= '9') return c - '0';
  if (c >= 'a' && c <= 'f') return c - 'a' + 10;
  return -1; /* upper case is legal and rare: the walk reads it */
}

/* One whole plain chunk at `at`: its body's place and length, and where the next begins; else 0. */
static int plain_chunk(const char *data, Py_ssize_t size, Py_ssize_t at, Py_ssize_t *body,
                       Py_ssize_t *length) {
  Py_ssize_t value = 0, first = at;
  int digit;
  while (at < size && at - first < SIZE_DIGITS_MAX &&
         (digit = hex_value((unsigned char)data[at])) >= 0) {
    value = value * 16 + digit;
    at++;
  }
  /* `0...` is the last chunk, or a size with leading zeros: both are for the walk. */
  if (at == first || data[first] == '0' || size - at < 4) return 0;
  if (data[at] != '\r' || data[at + 1] != '\n') return 0;
  at += 2;
  if (value > size - at - 2) return 0;
  if (data[at + value] != '\r' || data[at + value + 1] != '\n') return 0;
  *body = at;
  *length = value;
  return 1;
}

static PyObject *plain_chunks(PyObject *self, PyObject *const *args, Py_ssize_t count) {
  (void)self;
  if (count != 2 || !PyBytes_CheckExact(args[0])) {
    PyErr_SetString(PyExc_TypeError, "plain_chunks(data: bytes, at: int)");
    return NULL;
  }
  const char *data = PyBytes_AS_STRING(args[0]);
  const Py_ssize_t size = PyBytes_GET_SIZE(args[0]);
  const Py_ssize_t start = PyLong_AsSsize_t(args[1]);
  if (start == -1 && PyErr_Occurred()) return NULL;
  if (start < 0 || start > size) {
    PyErr_SetString(PyExc_ValueError, "`at` is outside of the data");
    return NULL;
  }
  Py_ssize_t at = start, total = 0, body = 0, length = 0;
  while (plain_chunk(data, size, at, &body, &length)) {
    total += length;
    at = body + length + 2;
  }
  const Py_ssize_t end = at;
  PyObject *joined = PyBytes_FromStringAndSize(NULL, total);
  if (joined == NULL) return NULL;
  char *out = PyBytes_AS_STRING(joined);
  for (at = start; at < end; at = body + length + 2) {
    if (!plain_chunk(data, size, at, &body, &length)) break; /* cannot be: it was one above */
    memcpy(out, data + body, (size_t)length);
    out += length;
  }
  return Py_BuildValue("(Nn)", joined, end);
}

static PyObject *plain_events(PyObject *self, PyObject *arg) {
  (void)self;
  if (!PyBytes_CheckExact(arg)) {
    PyErr_SetString(PyExc_TypeError, "plain_events(data: bytes)");
    return NULL;
  }
  const char *data = PyBytes_AS_STRING(arg);
  const Py_ssize_t size = PyBytes_GET_SIZE(arg);
  long long events = 0;
  if (size < 2 || data[0] == ':' || data[size - 2] != '\n' || data[size - 1] != '\n' ||
      memchr(data, '\r', (size_t)size) != NULL)
    return PyLong_FromLong(-1);
  for (Py_ssize_t at = 0; at < size - 1; at++) {
    const char *found = memchr(data + at, '\n', (size_t)(size - 1 - at));
    if (found == NULL) break;
    at = found - data;
    if (data[at + 1] != '\n') continue;
    events++;
    if (at + 2 < size && data[at + 2] == ':') return PyLong_FromLong(-1);
    at++; /* as bytes.count: pairs do not overlap */
    /* "\n\n\n:" holds "\n\n:" one place further on. */
    if (at + 2 < size && data[at + 1] == '\n' && data[at + 2] == ':') return PyLong_FromLong(-1);
  }
  return PyLong_FromLongLong(events);
}

static PyMethodDef methods[] = {
    {"plain_chunks", (PyCFunction)(void (*)(void))plain_chunks, METH_FASTCALL, NULL},
    {"plain_events", plain_events, METH_O, NULL},
    {NULL, NULL, 0, NULL},
};

static struct PyModuleDef module = {
    .m_base = PyModuleDef_HEAD_INIT, .m_name = "_scan", .m_size = 0, .m_methods = methods};

PyMODINIT_FUNC PyInit__scan(void) { return PyModuleDef_Init(&module); }
