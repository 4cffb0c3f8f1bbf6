/* The inner loops of a relay: sizes off a read's chunks, its events counted, the fields of a head.

   `scan.py` beside this file says the same in Python and is what the tests compare this with: it is
   the law, this is its speed. All functions are pure, answer for the plain case only and say so
   when a read is not plain; then the caller walks it. Nothing is kept between calls.
   Every index is checked against the read's end before it is used. */
#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <string.h>

#define SIZE_DIGITS_MAX 7 /* of a plain size line; more means the caller's walk */
#define FIELDS_MAX 255
#define NAME_BYTES_MAX 64

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

/* RFC 9110 5.6.2: a character of a field's name, in lower case; 0 for what cannot be in one. */
static char name_char(unsigned char c) {
  if (c >= 'a' && c <= 'z') return (char)c;
  if (c >= 'A' && c <= 'Z') return (char)(c - 'A' + 'a');
  if (c >= '0' && c <= '9') return (char)c;
  return c != 0 && strchr("!#$%&'*+-.^_`|~", c) != NULL ? (char)c : 0;
}

/* Where the line that begins at `at` ends, if a CR LF follows and no control character is in it. */
static Py_ssize_t line_end(const char *data, Py_ssize_t size, Py_ssize_t at) {
  for (; at < size; at++) {
    const unsigned char c = (unsigned char)data[at];
    if (c == '\r') return at + 1 < size && data[at + 1] == '\n' ? at : -1;
    if ((c < 32 && c != '\t') || c == 127) return -1;
  }
  return -1;
}

/* One field into `fields`: the bytes from `at` to `end` are its line. 1 if it is plain, 0 if it is
   not, -1 with an exception set. */
static int take_field(PyObject *fields, const char *data, Py_ssize_t at, Py_ssize_t end) {
  char lower[NAME_BYTES_MAX];
  Py_ssize_t length = 0;
  while (at < end && length < NAME_BYTES_MAX && (lower[length] = name_char((unsigned char)data[at]))) {
    length++;
    at++;
  }
  if (length == 0 || at >= end || data[at] != ':') return 0;
  at++;
  while (at < end && (data[at] == ' ' || data[at] == '\t')) at++;
  while (end > at && (data[end - 1] == ' ' || data[end - 1] == '\t')) end--;
  PyObject *name = PyBytes_FromStringAndSize(lower, length);
  if (name == NULL) return -1;
  PyObject *value = PyBytes_FromStringAndSize(data + at, end - at);
  int took = value == NULL ? -1 : PyDict_Contains(fields, name);
  if (took == 0)
    took = PyDict_SetItem(fields, name, value) < 0 ? -1 : 1;
  else if (took > 0)
    took = 0; /* twice: the walk knows whether it may be joined */
  Py_DECREF(name);
  Py_XDECREF(value);
  return took;
}

static PyObject *plain_fields(PyObject *self, PyObject *const *args, Py_ssize_t count) {
  (void)self;
  if (count != 2 || !PyBytes_CheckExact(args[0])) {
    PyErr_SetString(PyExc_TypeError, "plain_fields(data: bytes, at: int)");
    return NULL;
  }
  const char *data = PyBytes_AS_STRING(args[0]);
  const Py_ssize_t size = PyBytes_GET_SIZE(args[0]);
  Py_ssize_t at = PyLong_AsSsize_t(args[1]);
  if (at == -1 && PyErr_Occurred()) return NULL;
  if (at < 0 || at > size) {
    PyErr_SetString(PyExc_ValueError, "`at` is outside of the data");
    return NULL;
  }
  PyObject *fields = PyDict_New();
  if (fields == NULL) return NULL;
  int took = 1;
  for (int n = 0; took > 0; n++) {
    const Py_ssize_t end = line_end(data, size, at);
    if (end == at) return Py_BuildValue("(Nn)", fields, at + 2);
    took = end < 0 || n == FIELDS_MAX ? 0 : take_field(fields, data, at, end);
    at = end + 2;
  }
  Py_DECREF(fields);
  if (took < 0) return NULL;
  Py_RETURN_NONE;
}

static PyMethodDef methods[] = {
    {"plain_chunks", (PyCFunction)(void (*)(void))plain_chunks, METH_FASTCALL, NULL},
    {"plain_events", plain_events, METH_O, NULL},
    {"plain_fields", (PyCFunction)(void (*)(void))plain_fields, METH_FASTCALL, NULL},
    {NULL, NULL, 0, NULL},
};

static struct PyModuleDef module = {
    .m_base = PyModuleDef_HEAD_INIT, .m_name = "_scan", .m_size = 0, .m_methods = methods};

PyMODINIT_FUNC PyInit__scan(void) { return PyModuleDef_Init(&module); }
