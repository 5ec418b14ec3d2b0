// Answers an upload as MVI does: one entry for each file of the form, with its name and an id of its own. The address
// says how large the files are, so that only the heads of the parts are looked at; 0 means that everything is searched.
const HEAD = 'filename="';

function upload(request) {
    const body = request.requestBuffer;
    if (body === undefined) {
        request.return(200, '[]');
        return;
    }
    const size = Number(request.variables.size), id = request.variables.request_id;
    const names = [], entries = [];
    for (let at = body.indexOf(HEAD); at >= 0; at = body.indexOf(HEAD, at)) {
        at += HEAD.length;
        const end = body.indexOf('"', at), name = body.toString('utf8', at, end);
        entries.push(`{"result":"success","id":"${id}-${names.length}","original_file_name":"${name}"}`);
        names.push(name);
        at = end + size;
    }
    request.variables.names = names.join(' ');
    request.return(200, `{"result":"success","resultList":[${entries.join(',')}]}`);
}

export default {upload};
