// A mutual TLS server by Node's own OpenSSL, with a staple; prints its port, then answers who asked.
// argv: CA file, certificate file, key file, staple file
'use strict';
const https = require('https');
const fs = require('fs');
const [ca, cert, key, staple] = process.argv.slice(2);

const server = https.createServer({
  ca: fs.readFileSync(ca),
  cert: fs.readFileSync(cert),
  key: fs.readFileSync(key),
  minVersion: 'TLSv1.3',
  ecdhCurve: 'X25519MLKEM768',
  requestCert: true,
  rejectUnauthorized: true,
}, (request, response) => {
  let length = 0;
  request.on('data', (part) => { length += part.length; });
  request.on('end', () => response.end(`${request.socket.getPeerCertificate().subjectaltname} ${length}`));
});
server.on('OCSPRequest', (certificate, issuer, callback) => callback(null, fs.readFileSync(staple)));
server.listen(0, '127.0.0.1', () => console.log(server.address().port));
